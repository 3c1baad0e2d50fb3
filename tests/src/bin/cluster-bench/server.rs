//! What the API server says of its own work, and what one agent's start costs it.

use crate::Size;
use crate::agent::Agent;
use crate::api::Api;
use crate::table::Table;
use anyhow::{Context, Result};
use mesh_tests::cluster::Cluster;
use mesh_tests::release::Release;
use std::time::Duration;

/// An agent is left alone for this long before it is looked at.
const SETTLE: Duration = Duration::from_secs(3);

/// CPU seconds that the API server has used.
pub(crate) fn cpu(api: &Api) -> Result<f64> {
    let samples = api.metrics()?;
    let found = samples
        .iter()
        .find(|sample| sample.is("process_cpu_seconds_total", &[]));
    Ok(found
        .context("the API server's metrics have no process_cpu_seconds_total")?
        .value)
}

/// Ends the agent and looks at the one that comes.
pub(crate) fn crash(api: &Api, agent: Agent, size: &Size, table: &mut Table) -> Result<Agent> {
    std::thread::sleep(SETTLE);
    agent.memory(table, "when it has seen all of it come");
    let idle = cpu(api)?;
    std::thread::sleep(SETTLE);
    let idle = (cpu(api)? - idle) / SETTLE.as_secs_f64();
    let mut agent = agent;
    let mut times = Vec::new();
    for round in 1..size.rounds {
        let (before, clock) = (cpu(api)?, std::time::Instant::now());
        let (next, ready) = agent.crash()?;
        agent = next;
        times.push(ready.as_secs_f64());
        // On a machine that has more to do, this and not the time is what a start costs.
        let used = agent.process.cpu().context("the agent has ended");
        table.add(
            "agent: CPU for its start",
            used.map(|used| used.as_secs_f64()),
            "s",
            None,
        );
        let background = idle * clock.elapsed().as_secs_f64();
        if round == 1 {
            table.fact(
                "API server: CPU for the lists of an agent",
                cpu(api)? - before - background,
                "s",
            );
        }
    }
    table.percentiles(
        "agent: start → ready, after a crash",
        &mut times,
        "s",
        None,
        Some(10.0),
    );
    std::thread::sleep(SETTLE);
    agent.memory(table, "after its start");
    traffic(api, &agent, table);
    Ok(agent)
}

/// Has another agent take over from this one, as an upgrade does.
pub(crate) fn replace(
    cluster: &Cluster,
    release: &Release,
    agent: Agent,
    table: &mut Table,
) -> Result<Agent> {
    let namespace = release.space.name.as_str();
    cluster.kubectl(&["-n", namespace, "rollout", "restart", "daemonset/heddle-agent"])?;
    let (next, ready) = agent.successor()?;
    table.figure(
        "agent: start → ready, taking over from another",
        ready.as_secs_f64(),
        "s",
        10.0,
    );
    std::thread::sleep(SETTLE);
    next.memory(table, "after it took over");
    release
        .space
        .rolled_out("daemonset/heddle-agent", Duration::from_secs(180))?;
    Ok(next)
}

/// What the agent counts of its own questions.
fn traffic(api: &Api, agent: &Agent, table: &mut Table) {
    let samples = match agent.metrics(api) {
        Ok(samples) => samples,
        Err(error) => return table.missing("agent: questions to the API server", &error),
    };
    let relists = samples.iter().filter(|s| s.name == "heddle_source_relists_total");
    let most = relists.map(|s| s.value).fold(0.0, f64::max);
    table.figure("agent: lists of a kind, the most", most, "", 1.0);
    let one = |name: &str| {
        let sample = samples.iter().find(|sample| sample.name == name);
        Ok(sample
            .with_context(|| format!("the agent has no metric {name}"))?
            .value)
    };
    table.add(
        "agent: open watches",
        one("heddle_source_open_watches"),
        "",
        Some(10.0),
    );
    let bytes = one("heddle_source_received_bytes_total").map(|bytes| bytes / 1e6);
    table.add("agent: received for its start", bytes, "MB", Some(50.0));
}
