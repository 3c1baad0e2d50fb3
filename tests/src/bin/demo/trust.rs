//! Steps e and f: what crosses the wire, and what happens while no agent is there.

use crate::report::Step;
use crate::stage::{Stage, failed, now_ms};
use crate::traffic::ask;
use anyhow::{Context, Result};
use mesh_tests::capture::Capture;
use mesh_tests::podkit::last_json;
use mesh_tests::topology::WIRE;
use mesh_tests::weather::{ECHO, FRONTEND};
use std::collections::BTreeSet;
use std::time::Duration;

const HBONE: u16 = 15008;

pub(crate) fn tls(stage: &Stage, step: &mut Step) -> Result<()> {
    let capture = Capture::start(&stage.ground.nodes[0].netns, WIRE)?;
    let answers = ask(stage, 50, "x-test-id: must-not-be-seen")?;
    step.holds("50 requests are answered", answers["statuses"]["200"] == 50);
    std::thread::sleep(Duration::from_millis(300));
    let seen = capture.seen();
    let needles: [&[u8]; 4] = [
        b"must-not-be-seen",
        b"GET /weather",
        b"Umbrellas for",
        b"rain, 14",
    ];
    let plain: usize = needles.iter().map(|needle| seen.with(needle).len()).sum();
    step.figure("captured_bytes", seen.bytes());
    step.figure("captured_bytes_15008", seen.bytes_on(HBONE));
    step.figure("flows_with_plaintext", plain);
    step.holds(
        "what crosses between the nodes holds no plaintext of them",
        plain == 0,
    );
    let apps: u64 = [3000, 3002, 3003, 3005]
        .iter()
        .map(|port| seen.bytes_on(*port))
        .sum();
    step.holds(
        "nothing goes to the applications' ports, all to 15008",
        apps == 0 && seen.bytes_on(HBONE) > 0,
    );
    let server = stage.agents.last().context("no agent")?.spec.metrics()?;
    let pairs: BTreeSet<(&str, &str)> = server
        .iter()
        .filter(|sample| sample.is("istio_requests_total", &[("reporter", "destination")]))
        .filter(|sample| sample.label("connection_security_policy") == "mutual_tls")
        .map(|sample| {
            (
                sample.label("source_principal"),
                sample.label("destination_principal"),
            )
        })
        .collect();
    for (source, destination) in &pairs {
        println!("      {source} -> {destination}");
    }
    let proven = |account: &str| {
        pairs
            .iter()
            .any(|(from, to)| from.ends_with("/sa/frontend") && to.ends_with(account))
    };
    step.figure("identity_pairs", pairs.len());
    step.holds(
        "the server's node knows frontend as the caller of forecast",
        proven("/sa/forecast"),
    );
    step.holds("and of advertisement", proven("/sa/advertisement"));
    Ok(())
}

pub(crate) fn kill(stage: &mut Stage, step: &mut Step) -> Result<()> {
    let capture = Capture::start(&stage.ground.nodes[0].netns, WIRE)?;
    let mut chat = stage
        .weather
        .client
        .start_podkit(&["chat", "--to", ECHO, "--seconds", "5"])?;
    stage.watch(1.0);
    let killed = now_ms();
    stage.agents.first_mut().context("no agent")?.kill();
    let around = stage.weather.client.podkit(&[
        "get",
        "--to",
        FRONTEND,
        "--count",
        "20",
        "--header",
        "x-test-id: goes-around",
    ])?;
    let direct = stage.weather.client.podkit(&["connect", "--to", ECHO])?;
    step.figure("same_node_l4_new_connection_without_agent", direct["ok"].clone());
    step.figure("new_connections_refused_without_agent", around["failed"].clone());
    step.holds(
        "no new connection gets around the mesh meanwhile",
        around["statuses"] == serde_json::json!({}),
    );
    let started = now_ms();
    let agent = stage.agents.first_mut().context("no agent")?;
    agent.restart()?;
    step.figure(
        "agent_ready_ms",
        agent.ready(Duration::from_secs(10))?.as_secs_f64() * 1e3,
    );
    let back = mesh_tests::eventually("service back", Duration::from_secs(10), || {
        let requests = stage.requests(started, now_ms()).ok()?;
        requests
            .iter()
            .find(|request| request.ok)
            .map(|request| request.start_ms - started)
    })?;
    step.figure("service_back_ms", back);
    step.holds("service is back within 1 s of the start", back <= 1000);
    let up = now_ms();
    stage.watch(3.0);
    let after = stage.requests(up + 200, now_ms() - 500)?;
    let (lost, reason) = failed(&after);
    step.figure("lost_afterwards", lost);
    if lost > 0 {
        step.figure("first_loss", reason);
    }
    step.holds("and nothing is lost from then on", lost == 0 && !after.is_empty());
    let down = stage.requests(killed, started)?;
    step.figure("load_refused_while_down", failed(&down).0);
    let seen = capture.seen();
    let plain = seen.with(b"goes-around").len()
        + seen.with(b"GET /weather").len()
        + seen.with(b"Umbrellas for").len();
    step.figure("flows_with_plaintext", plain);
    step.holds(
        "0 bytes of enrolled traffic in plaintext between the nodes",
        plain == 0,
    );
    chat.wait(Duration::from_secs(10))?;
    let chat = last_json(&chat.stdout())?;
    step.figure("same_node_l4", chat.clone());
    let smooth = chat["longest_ms"].as_f64().is_some_and(|gap| gap < 250.0);
    step.holds(
        "the same-node L4 flow never stopped",
        chat["ok"] == true && smooth,
    );
    Ok(())
}
