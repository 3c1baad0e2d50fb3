//! `routes`: the route tables in force.

use super::Output;
use super::ask::{Agent, block_on};
use serde_json::Value;
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only hosts that contain this.
    #[arg(default_value = "")]
    host: String,
    #[command(flatten)]
    agent: Agent,
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let gathered = block_on(args.agent.gather("routes", "/routes"))?;
    if args.output == Output::Json {
        println!("{}", gathered.json());
        return Ok(gathered.code());
    }
    // Every node has the same tables once settled: nodes that say the same are one.
    let mut printed: Vec<(&Value, Vec<&str>)> = Vec::new();
    for (node, answer) in gathered.answers() {
        match printed
            .iter_mut()
            .find(|(routes, _)| **routes == answer["routes"])
        {
            Some((_, nodes)) => nodes.push(node),
            None => printed.push((&answer["routes"], vec![node])),
        }
    }
    for (routes, nodes) in printed {
        println!("on {}:", nodes.join(", "));
        let tables = routes.as_array().map_or(&[][..], Vec::as_slice);
        for table in tables
            .iter()
            .filter(|table| text(&table["host"]).contains(&args.host))
        {
            print(table);
        }
    }
    gathered.print_silent();
    Ok(gathered.code())
}

fn print(table: &Value) {
    println!(
        "{}  ({}, clients {})",
        text(&table["host"]),
        text(&table["object"]),
        text(&table["clients"])
    );
    for rule in table["rules"].as_array().map_or(&[][..], Vec::as_slice) {
        let matches = match rule["matches"].as_u64() {
            Some(0) | None => "any request".to_owned(),
            Some(count) => format!("{count} match blocks"),
        };
        let to: Vec<String> = rule["destinations"]
            .as_array()
            .into_iter()
            .flatten()
            .map(destination)
            .collect();
        println!(
            "  {} {} [{matches}] -> {}",
            text(&rule["field"]),
            text(&rule["name"]),
            to.join(", ")
        );
    }
}

fn destination(to: &Value) -> String {
    let subset = to["subset"]
        .as_str()
        .map(|subset| format!("/{subset}"))
        .unwrap_or_default();
    let endpoints = to["endpoints"]
        .as_u64()
        .map_or_else(|| "UNKNOWN".to_owned(), |count| count.to_string());
    format!(
        "{}{subset} weight {} ({endpoints} endpoints)",
        text(&to["host"]),
        to["weight"]
    )
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
