//! Steps a to d: enrolment and routes, under the load.

use crate::report::Step;
use crate::stage::{Stage, failed, now_ms, split};
use anyhow::{Context, Result};
use mesh_tests::capture::Capture;
use mesh_tests::process::Proc;
use mesh_tests::promtext;
use mesh_tests::topology::WIRE;
use mesh_tests::weather::FRONTEND;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::Duration;

const CHROME: &str =
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36";
const FIREFOX: &str = "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0";

/// `count` requests of the client, with one more header.
pub(crate) fn ask(stage: &Stage, count: usize, header: &str) -> Result<Value> {
    let count = count.to_string();
    let args = [
        "get",
        "--to",
        FRONTEND,
        "--host",
        "frontend:3000",
        "--count",
        &count,
        "--header",
        header,
    ];
    stage.weather.client.podkit(&args)
}

pub(crate) fn enrol(stage: &mut Stage, step: &mut Step) -> Result<()> {
    let capture = Capture::start(&stage.ground.nodes[0].netns, WIRE)?;
    let plain = ask(stage, 20, "x-test-id: seen-before-the-mesh")?;
    step.figure("plain_answers", plain["fields"].clone());
    step.holds(
        "plain traffic works before enrolment",
        plain["statuses"]["200"] == 20,
    );
    let visible = mesh_tests::eventually("plaintext on the wire", Duration::from_secs(2), || {
        (!capture.seen().with(b"seen-before-the-mesh").is_empty()).then_some(())
    });
    step.holds(
        "the capture sees its plaintext between the nodes",
        visible.is_ok(),
    );
    drop(capture);

    stage.start_load()?;
    let pids: Vec<i32> = stage.weather.procs.iter().map(Proc::pid).collect();
    stage.watch(1.0);
    let from = now_ms();
    for spec in stage.specs()? {
        let mut agent = spec.start()?;
        let ready = agent.ready(Duration::from_secs(20))?;
        step.figure(
            &format!("agent_ready_ms_{}", spec.node.name),
            ready.as_secs_f64() * 1e3,
        );
        stage.agents.push(agent);
    }
    let labelled = now_ms();
    stage.weather.label(true)?;
    let first = mesh_tests::eventually("requests counted by the mesh", Duration::from_secs(15), || {
        let metrics = stage.agents.first()?.spec.metrics().ok()?;
        (promtext::sum(
            &metrics,
            "istio_requests_total",
            &[("destination_workload", "frontend-v1")],
        ) > 0.0)
            .then(now_ms)
    });
    step.holds(
        "the labelled namespace's requests go through the mesh",
        first.is_ok(),
    );
    if let Ok(first) = first {
        step.figure("enrolled_after_ms", first - labelled);
    }
    stage.watch(4.0);
    let same = stage
        .weather
        .procs
        .iter_mut()
        .map(|proc| proc.running().then(|| proc.pid()));
    let same: Vec<i32> = same.flatten().collect();
    step.holds("the same processes run", same == pids);
    no_loss(stage, step, from, now_ms() - 500)
}

/// Holds if all of the load's requests of that time succeeded, and there were as many as the rate says.
fn no_loss(stage: &Stage, step: &mut Step, from: u64, to: u64) -> Result<()> {
    let requests = stage.requests(from, to)?;
    let (lost, reason) = failed(&requests);
    step.figure("requests", requests.len());
    step.figure("lost", lost);
    if lost > 0 {
        step.figure("first_loss", reason);
    }
    // Not their number: the edges of a short step would decide it.
    let starts = requests.iter().map(|request| request.start_ms);
    let mut starts: Vec<u64> = starts.collect();
    starts.sort_unstable();
    let pause = starts.windows(2).map(|pair| pair[1] - pair[0]).max();
    step.figure("longest_pause_ms", pause.unwrap_or(0));
    step.holds("the load never paused", pause.is_some_and(|pause| pause < 500));
    step.holds("no request was lost", lost == 0);
    Ok(())
}

/// Applies a route and waits until answers show it; gives the time that took.
fn route(
    stage: &Stage,
    manifest: &str,
    shown: impl Fn(&std::collections::BTreeMap<String, usize>) -> bool,
) -> Result<u64> {
    let changed = now_ms();
    stage.weather.apply("30-route.yaml", manifest)?;
    mesh_tests::eventually(&format!("{manifest} in answers"), Duration::from_secs(5), || {
        let now = now_ms();
        let recent = stage.requests(changed.max(now.saturating_sub(400)), now).ok()?;
        (recent.len() >= 8 && shown(&split(&recent))).then_some(now - changed)
    })
}

pub(crate) fn canary(stage: &Stage, step: &mut Step) -> Result<()> {
    let from = now_ms();
    stage.weather.apply("25-subsets.yaml", "destination-rule.yaml")?;
    let after = route(stage, "vs-forecast-weight-based-50.yaml", |split| {
        split.len() == 2
    })?;
    step.figure("shown_after_ms", after);
    std::thread::sleep(Duration::from_millis(300));
    let settled = now_ms();
    stage.watch(6.0);
    let halves = split(&stage.requests(settled, now_ms())?);
    let (v1, v2) = (share(&halves, "v1"), share(&halves, "v2"));
    step.figure("split_50_50", json!(halves));
    step.holds(
        "about half of the answers come from each version",
        v1 > 0.38 && v2 > 0.38,
    );
    let after = route(stage, "vs-forecast-weight-based-v2.yaml", |split| {
        split.len() == 1 && split.contains_key("v2")
    })?;
    step.figure("all_v2_after_ms", after);
    std::thread::sleep(Duration::from_millis(300));
    let settled = now_ms();
    stage.watch(3.0);
    let all = split(&stage.requests(settled, now_ms())?);
    step.figure("split_v2", json!(all));
    step.holds("all answers come from v2", all.keys().eq(["v2"]));
    no_loss(stage, step, from, now_ms() - 500)
}

fn share(split: &std::collections::BTreeMap<String, usize>, version: &str) -> f64 {
    let all: usize = split.values().sum();
    split.get(version).copied().unwrap_or(0) as f64 / all.max(1) as f64
}

pub(crate) fn headers(stage: &Stage, step: &mut Step) -> Result<()> {
    let from = now_ms();
    let after = route(stage, "vs-forecast-header-based.yaml", |split| {
        split.len() == 1 && split.contains_key("v1")
    })?;
    step.figure("shown_after_ms", after);
    let chrome = ask(stage, 40, CHROME)?;
    let firefox = ask(stage, 40, FIREFOX)?;
    step.figure("chrome", chrome["fields"].clone());
    step.figure("firefox", firefox["fields"].clone());
    step.holds("Chrome gets v2 every time", chrome["fields"] == json!({"v2": 40}));
    step.holds(
        "Firefox gets v1 every time",
        firefox["fields"] == json!({"v1": 40}),
    );
    let recommends = !chrome["last"]["body"]["recommendation"].is_null();
    step.holds("v2's page has a recommendation", recommends);
    stage.watch(1.5);
    no_loss(stage, step, from, now_ms() - 500)
}

pub(crate) fn mirror(stage: &mut Stage, step: &mut Step) -> Result<()> {
    stage.weather.apply("30-route.yaml", "vs-forecast-mirror.yaml")?;
    mesh_tests::eventually("the first mirrored request", Duration::from_secs(5), || {
        ask(stage, 1, "x-test-id: mirror-probe").ok()?;
        (stage.weather.requests_at("forecast-v2", "mirror-probe").ok()? > 0).then_some(())
    })?;
    let answers = ask(stage, 100, "x-test-id: mirrored")?;
    // A copy may arrive after its answer, so the count is awaited, and then must not grow.
    let _ = mesh_tests::eventually("copies", Duration::from_secs(3), || {
        (stage.weather.requests_at("forecast-v2", "mirrored").ok()? >= 100).then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    let v1 = stage.weather.requests_at("forecast-v1", "mirrored")?;
    let v2 = stage.weather.requests_at("forecast-v2", "mirrored")?;
    step.figure("arrived_at_v1", v1);
    step.figure("arrived_at_v2", v2);
    step.holds(
        "each request arrives once at v1 and once at v2",
        v1 == 100 && v2 == 100,
    );
    step.holds("every answer is v1's", answers["fields"] == json!({"v1": 100}));
    stage.weather.proc("forecast-v2")?.signal(Signal::SIGSTOP)?;
    let stopped = ask(stage, 20, "x-test-id: mirror-stopped");
    stage.weather.proc("forecast-v2")?.signal(Signal::SIGCONT)?;
    let stopped = stopped?;
    let slowest = stopped["max_ms"]
        .as_f64()
        .context("no answer at all while v2 stood still")?;
    step.figure("slowest_while_v2_stands_still_ms", slowest);
    step.holds(
        "the caller waits for v1 only",
        stopped["fields"] == json!({"v1": 20}) && slowest < 500.0,
    );
    Ok(())
}
