//! `check`: the table of what this machine has and lacks.

use super::Output;
use crate::bpf::{Feature, check_features};
use serde_json::json;
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let rows = check_features();
    let lacking = rows
        .iter()
        .filter(|row| row.required && row.present.is_err())
        .count();
    match args.output {
        Output::Json => {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| {
                    json!({"feature": row.name, "present": row.present.is_ok(), "required": row.required,
                        "reason": row.present.as_ref().err(), "without": row.without})
                })
                .collect();
            println!("{}", json!({"ok": lacking == 0, "features": rows}));
        }
        Output::Text => {
            for row in &rows {
                print(row);
            }
            let verdict = if lacking == 0 {
                "this machine can run the agent"
            } else {
                "the agent cannot run here"
            };
            println!("\n{verdict}");
        }
    }
    Ok(if lacking == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(row: &Feature) {
    match &row.present {
        Ok(()) => println!("✔ {}", row.name),
        Err(reason) => {
            let mark = if row.required { '✘' } else { '!' };
            println!(
                "{mark} {}\n    {reason}\n    without it: {}",
                row.name, row.without
            );
        }
    }
}
