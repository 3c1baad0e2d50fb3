//! What the API server says of its own work, and what one agent's start costs it.

use crate::Size;
use crate::agent::Agent;
use crate::api::Api;
use crate::table::Table;
use anyhow::{Context, Result};
use mesh_tests::promtext;
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

/// Ends the agent and looks at the one that comes. `measured`: whether that is to be in the table.
pub(crate) fn restart(
    api: &Api,
    agent: Agent,
    size: &Size,
    table: &mut Table,
    measured: bool,
) -> Result<Agent> {
    std::thread::sleep(SETTLE);
    if !measured {
        return Ok(agent);
    }
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

/// What the agent counts of its own questions.
fn traffic(api: &Api, agent: &Agent, table: &mut Table) {
    let samples = match agent.metrics(api) {
        Ok(samples) => samples,
        Err(error) => return table.missing("agent: questions to the API server", &error),
    };
    let relists = samples.iter().filter(|s| s.name == "heddle_source_relists_total");
    let most = relists.map(|s| s.value).fold(0.0, f64::max);
    table.figure("agent: lists of a kind, the most", most, "", 1.0);
    let watches = promtext::sum(&samples, "heddle_source_open_watches", &[]);
    table.figure("agent: open watches", watches, "", 10.0);
    let bytes = promtext::sum(&samples, "heddle_source_received_bytes_total", &[]);
    table.figure("agent: received for its start", bytes / 1e6, "MB", 50.0);
}
