//! `cargo xtask bench`: Heddle and its peers on one topology in one run, in interleaved rounds, so that what drifts
//! drifts for all. Rates are what two proxies, load and origin make of the cores that they share; the figures that
//! carry over are the ratio to direct in the same run and the CPU per unit of work.

mod cells;
mod edge;
mod measure;
mod peers;
mod table;

use anyhow::Result;
use cells::{Cell, Suite};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use table::Results;

#[derive(Parser)]
#[command(name = "bench", about = "Measures Heddle beside its peers")]
struct Cli {
    /// Two short rounds in place of five.
    #[arg(long)]
    quick: bool,
    /// Writes one JSON object per line here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only these targets (direct heddle gateway envoy nginx haproxy).
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// Only these suites (bulk1 bulk8 http1 http2 rate newconn mem).
    #[arg(long, value_delimiter = ',')]
    suites: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("✘ {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let (rounds, seconds) = if cli.quick { (2, 2.0) } else { (5, 4.0) };
    eprintln!("▸ making two nodes, origins and the targets");
    let stage = cells::Stage::new(&cli.targets)?;
    let suites: Vec<Suite> = Suite::ALL
        .into_iter()
        .filter(|s| cli.suites.is_empty() || cli.suites.iter().any(|n| n == s.name()))
        .collect();
    let mut results = Results::default();
    for round in 1..=rounds {
        for suite in &suites {
            let cells: Vec<&Cell> = stage.cells.iter().filter(|cell| suite.applies(cell)).collect();
            for cell in cells {
                let sample = measure::measure(*suite, cell, seconds);
                let shown = match &sample {
                    Ok(sample) => format!("{:.2} {}", sample.value, suite.unit()),
                    Err(error) => format!("✘ {error:#}"),
                };
                eprintln!("  round {round}/{rounds} {:8} {cell:40} {shown}", suite.name());
                if let Ok(sample) = sample {
                    results.add(*suite, cell, sample);
                }
            }
        }
    }
    let rows = results.rows();
    table::print(&rows);
    if let Some(path) = &cli.json {
        std::fs::write(path, table::json_lines(&rows))?;
    }
    Ok(())
}
