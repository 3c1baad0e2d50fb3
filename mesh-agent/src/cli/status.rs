//! `status`: the agent in a page.

use super::Output;
use super::ask::{Agent, Place, block_on};
use super::fleet::AgentPod;
use http::Method;
use serde_json::{Value, json};
use std::process::ExitCode;

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
    block_on(async {
        let fleet = match args.agent.place().await? {
            Place::Here => {
                let status = args.agent.ask(Method::GET, "/status", None).await?;
                match args.output {
                    Output::Json => println!("{status}"),
                    Output::Text => print(&status, None),
                }
                return Ok(ExitCode::SUCCESS);
            }
            Place::Cluster(fleet) => fleet,
        };
        let agents = fleet.agents().await?;
        let answers = fleet.ask_all(&agents, &["status".to_owned()]).await;
        let silent = answers.iter().filter(|(_, answer)| answer.is_err()).count();
        match args.output {
            Output::Json => println!(
                "{}",
                json!({"agents": answers.iter().map(as_json).collect::<Vec<_>>()})
            ),
            Output::Text => answers.iter().for_each(|(agent, answer)| match answer {
                Ok(status) => print(status, Some(&agent.node)),
                Err(error) => println!(
                    "agent {} on node {}: NO ANSWER: {error:#}\n",
                    agent.pod, agent.node
                ),
            }),
        }
        Ok(if silent == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

fn as_json((agent, answer): &(AgentPod, anyhow::Result<Value>)) -> Value {
    match answer {
        Ok(status) => status.clone(),
        Err(error) => json!({"agent": {"node": agent.node, "pod": agent.pod}, "error": format!("{error:#}")}),
    }
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
    println!("\n{:<60} {:<8} STATE", "CERTIFICATE", "SERIAL");
    for certificate in rows(&status["certificates"]) {
        let serial: String = text(&certificate["serial"]).chars().take(8).collect();
        println!(
            "{:<60} {serial:<8} {}",
            text(&certificate["identity"]),
            text(&certificate["state"])
        );
    }
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
