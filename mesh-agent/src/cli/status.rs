//! `status`: the agent in a page.

mod gateway;
mod in_force;

use super::Output;
use super::ask::{Agent, block_on};
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    agent: Agent,
    /// Prove which generation of each rule is in force: of a cluster on every agent and gateway, against what the API server
    /// has; fails if one lags.
    #[arg(long)]
    in_force: bool,
    /// With --in-force on one agent or gateway: name each rule.
    #[arg(long, requires = "in_force")]
    objects: bool,
    /// With --in-force: how long a cluster's agents and gateways may still lag, seconds.
    #[arg(long, requires = "in_force", default_value_t = 0)]
    wait: u64,
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.in_force {
        let wait = Duration::from_secs(args.wait);
        return in_force::run(&args.agent, args.objects, wait, args.output);
    }
    let gathered = block_on(args.agent.gather("status", "/status"))?;
    match args.output {
        Output::Json => println!("{}", gathered.json()),
        Output::Text => {
            for (node, status) in gathered.answers() {
                if status["gateway"].is_object() {
                    gateway::print(status);
                } else {
                    print(status, gathered.of_cluster().then_some(node));
                }
            }
            gathered.print_silent();
        }
    }
    Ok(gathered.code())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Prints one agent's answer; of a cluster's agents, each for the pods of its own node.
fn print(status: &Value, only_node: Option<&str>) {
    let agent = &status["agent"];
    println!(
        "agent {} on node {}, pid {}, up {} s, {}, snapshot {}",
        text(&agent["version"]),
        text(&agent["node"]),
        text(&agent["pid"]),
        text(&agent["uptime_s"]),
        if agent["ready"] == true {
            "ready"
        } else {
            "not ready"
        },
        text(&agent["snapshot"]),
    );
    println!(
        "\n{:<38} {:<22} {:<9} {:<12} WHY",
        "POD", "WORKLOAD", "VERSION", "NODE"
    );
    let mine = |pod: &&Value| only_node.is_none_or(|node| pod["node"] == node);
    for pod in rows(&status["pods"]).iter().filter(mine) {
        let before = pod["connections_before_enrollment"]
            .as_u64()
            .filter(|count| *count > 0);
        let before = before
            .map(|count| format!(", {count} connections older than enrollment"))
            .unwrap_or_default();
        println!(
            "{:<38} {:<22} {:<9} {:<12} {}{before}",
            text(&pod["pod"]),
            text(&pod["workload"]),
            text(&pod["version"]),
            text(&pod["node"]),
            text(&pod["why"]),
        );
    }
    print_certificates(status);
    for (n, name) in rows(&status["names"]).iter().enumerate() {
        if n == 0 {
            println!("\n{:<44} {:<40} SERVICEENTRY", "NAME", "ADDRESSES");
        }
        let addresses: Vec<String> = rows(&name["addresses"]).iter().map(text).collect();
        let chosen = if name["allocated"] == true {
            ", chosen by the mesh"
        } else {
            ""
        };
        println!(
            "{:<44} {:<40} {}{chosen}",
            text(&name["host"]),
            addresses.join(" "),
            text(&name["service_entry"]),
        );
    }
    let ejected = rows(&status["ejected"]);
    if !ejected.is_empty() {
        println!("\nEJECTED BY OUTLIER DETECTION");
    }
    for out in ejected {
        let subset = match &out["subset"] {
            Value::String(subset) => format!(" subset {subset}"),
            _ => String::new(),
        };
        println!(
            "{} of {} port {}{subset}",
            text(&out["endpoint"]),
            text(&out["service"]),
            text(&out["port"]),
        );
    }
    print_problems(status);
}

fn print_certificates(status: &Value) {
    println!("\n{:<60} {:<8} STATE", "CERTIFICATE", "SERIAL");
    for certificate in rows(&status["certificates"]) {
        let serial: String = text(&certificate["serial"]).chars().take(8).collect();
        println!(
            "{:<60} {serial:<8} {}",
            text(&certificate["identity"]),
            text(&certificate["state"])
        );
    }
}

fn print_problems(status: &Value) {
    let problems = rows(&status["problems"]);
    if !problems.is_empty() {
        println!("\nPROBLEMS");
    }
    for problem in problems {
        let kept = if problem["last_good_in_force"] == true {
            " (the last good version is in force)"
        } else {
            ""
        };
        println!(
            "{}: {}: {}: {}{kept}",
            text(&problem["origin"]),
            text(&problem["object"]),
            text(&problem["field"]),
            text(&problem["reason"]),
        );
    }
}
