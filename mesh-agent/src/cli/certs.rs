//! `certs`: the certificates that agents hold, and what their rotation thinks of them.

use super::Output;
use super::ask::{Agent, block_on};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    agent: Agent,
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let gathered = block_on(args.agent.gather("status", "/status"))?;
    let rows: Vec<(&str, &Value)> = gathered
        .answers()
        .flat_map(|(node, answer)| {
            answer["certificates"]
                .as_array()
                .into_iter()
                .flatten()
                .map(move |row| (node, row))
        })
        .collect();
    match args.output {
        Output::Json => {
            let rows: Vec<Value> = rows
                .iter()
                .map(|(node, row)| json!({"node": node, "certificate": row}))
                .collect();
            println!("{}", Value::from(rows));
        }
        Output::Text => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs());
            println!(
                "{:<16} {:<60} {:<18} {:>10} STATE",
                "NODE", "IDENTITY", "SERIAL", "ENDS IN"
            );
            for (node, row) in rows {
                print(node, row, now);
            }
            gathered.print_silent();
        }
    }
    Ok(gathered.code())
}

fn print(node: &str, row: &Value, now: u64) {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let left = row["not_after"].as_u64().unwrap_or(0).saturating_sub(now);
    let serial: String = text("serial").chars().take(16).collect();
    println!(
        "{node:<16} {:<60} {serial:<18} {:>10} {}",
        text("identity"),
        format!("{}h{:02}m", left / 3_600, left % 3_600 / 60),
        text("state")
    );
    if let Some(error) = row["last_error"].as_str() {
        println!("{:<16} last attempt to renew: {error}", "");
    }
}
