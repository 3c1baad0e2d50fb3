//! Steps g and h: metrics, and leaving nothing behind.

use crate::report::Step;
use crate::stage::{Stage, failed, now_ms};
use anyhow::{Context, Result, ensure};
use mesh_tests::agent::METRICS_PORT;
use mesh_tests::bpf_objects::BpfObjects;
use mesh_tests::netns::Netns;
use mesh_tests::process::Proc;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

const PROMETHEUS: &str = "127.0.0.1:9090";
/// PromQL `sum by (reporter, source_workload, …) (istio_requests_total)`, percent-encoded.
const QUERY: &str = "/api/v1/query?query=sum%20by%20(reporter,source_workload,destination_workload,destination_version,response_code)%20(istio_requests_total)";

pub(crate) fn metrics(stage: &Stage, step: &mut Step) -> Result<()> {
    for agent in &stage.agents {
        let (status, text) = agent.spec.get("/metrics")?;
        ensure!(status == 200, "/metrics answers {status}");
        let verdict = promtool(&text)?;
        let name = &agent.spec.node.name;
        step.holds(
            &format!("promtool check metrics passes on {name} {verdict}"),
            verdict.is_empty(),
        );
    }
    let dir = stage.ground.run().dir().join("prometheus");
    std::fs::create_dir_all(&dir)?;
    let targets = stage
        .ground
        .nodes
        .iter()
        .map(|node| format!("\"{}:{METRICS_PORT}\"", node.v4));
    let config = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: heddle\n  static_configs:\n  - targets: [{}]\n",
        targets.collect::<Vec<_>>().join(", ")
    );
    std::fs::write(dir.join("prometheus.yml"), config)?;
    let node = &stage.ground.nodes[0];
    let mut command = node.system.command("prometheus")?;
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg(format!("--web.listen-address={PROMETHEUS}"));
    let _prometheus = Proc::spawn("prometheus", command, &stage.ground.run().logs())?;
    let seen = || -> Option<Vec<Value>> {
        let (_, body) = node.netns.http_get(PROMETHEUS.parse().ok()?, QUERY).ok()?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        Some(
            answer["data"]["result"]
                .as_array()?
                .iter()
                .map(|row| row["metric"].clone())
                .collect(),
        )
    };
    let wanted = |rows: &[Value], reporter: &str| {
        rows.iter().any(|row| {
            row["reporter"] == reporter
                && row["source_workload"] == "frontend-v1"
                && row["destination_workload"] == "forecast-v1"
                && row["destination_version"] == "v1"
                && row["response_code"] == "200"
        })
    };
    let reporters = ["source", "destination"];
    let both = || seen().filter(|rows| reporters.iter().all(|reporter| wanted(rows, reporter)));
    let answer = mesh_tests::eventually("both reporters in Prometheus", Duration::from_secs(20), both);
    let rows = answer.ok().or_else(seen).unwrap_or_default();
    step.figure("series_in_prometheus", rows.len());
    for reporter in reporters {
        let says = format!("{reporter} reports frontend-v1 -> forecast-v1, version v1, code 200");
        step.holds(&says, wanted(&rows, reporter));
    }
    Ok(())
}

/// What promtool has to say; nothing is best.
fn promtool(text: &str) -> Result<String> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running promtool (package prometheus)")?;
    child
        .stdin
        .take()
        .context("promtool's input")?
        .write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(String::new());
    }
    let rest: Vec<&str> = words
        .lines()
        .filter(|line| !line.trim().is_empty() && *line != FORCED)
        .collect();
    Ok(rest.join("; "))
}

/// The one remark that Istio's contract forces: its dashboards ask for this name, and promtool wants base units.
const FORCED: &str =
    "istio_request_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"";

pub(crate) fn leave(mut stage: Stage, step: &mut Step) -> Result<()> {
    let from = now_ms();
    stage.weather.label(false)?;
    stage.watch(3.0);
    if stage.load.is_some() {
        let lost = failed(&stage.requests(from, now_ms() - 500)?);
        step.figure("lost_while_unenrolled", lost.0);
        step.holds(
            &format!("no request is lost by leaving the mesh {}", lost.1),
            lost.0 == 0,
        );
        let summary = stage.stop_load()?;
        step.figure("load_sent", summary["sent"].clone());
        step.figure("load_p50_ms", summary["p50_ms"].clone());
        step.figure("load_p99_ms", summary["p99_ms"].clone());
    }
    for agent in &mut stage.agents {
        let status = agent.proc.stop(Duration::from_secs(15))?;
        step.holds(
            &format!("the agent of {} ends with {status}", agent.spec.node.name),
            status.success(),
        );
        agent.spec.cleanup()?;
        let pins = agent.spec.bpf_dir();
        step.holds(&format!("{} is gone", pins.display()), !pins.exists());
        let state = agent.spec.state_dir();
        let empty = std::fs::read_dir(&state).map_or(0, Iterator::count) == 0;
        step.holds(&format!("{} is empty or gone", state.display()), empty);
    }
    if !stage.agents.is_empty() {
        let strangers = listeners(&stage)?;
        step.holds(
            &format!("no socket of the mesh listens in a pod {strangers:?}"),
            strangers.is_empty(),
        );
        let plain = crate::traffic::ask(&stage, 10, "x-test-id: afterwards")?;
        step.holds("plain traffic works as before", plain["statuses"]["200"] == 10);
    }
    let before = stage.bpf_before.clone();
    let left = mesh_tests::eventually("BPF objects to go", Duration::from_secs(5), || {
        (BpfObjects::now().since(&before) == [0, 0, 0]).then_some([0, 0, 0])
    });
    let left = left.unwrap_or_else(|_| BpfObjects::now().since(&before));
    step.figure("bpf_programs_maps_links_left", left.to_vec());
    step.holds("programs, maps and links are gone", left == [0, 0, 0]);
    let Stage {
        agents,
        load,
        weather,
        ground,
        ..
    } = stage;
    drop((agents, load, weather));
    let leftovers = ground.finish()?;
    step.holds(
        &format!("namespaces, cgroups, pins and folders are gone {leftovers:?}"),
        leftovers.is_empty(),
    );
    Ok(())
}

/// Listening ports in pods that are not the application's.
fn listeners(stage: &Stage) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for pod in stage.ground.pods() {
        for port in listening(&pod.netns)? {
            if ![3000, 3002, 3003, 3005, 7000].contains(&port) {
                found.push(format!("{}:{port}", pod.name));
            }
        }
    }
    Ok(found)
}

fn listening(netns: &Netns) -> Result<Vec<u16>> {
    netns.run(|| {
        let mut ports = Vec::new();
        for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            for line in std::fs::read_to_string(file)?.lines().skip(1) {
                let mut fields = line.split_whitespace().skip(1);
                let (local, state) = (fields.next().unwrap_or_default(), fields.nth(1));
                if state == Some("0A")
                    && let Some(port) = local
                        .rsplit(':')
                        .next()
                        .and_then(|p| u16::from_str_radix(p, 16).ok())
                {
                    ports.push(port);
                }
            }
        }
        Ok(ports)
    })
}
