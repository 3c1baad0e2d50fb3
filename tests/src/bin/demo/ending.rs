//! Steps g and h: metrics, and leaving nothing behind.

use crate::report::Step;
use crate::stage::{Stage, failed, now_ms};
use anyhow::{Result, ensure};
use mesh_tests::bpf_objects::BpfObjects;
use mesh_tests::netns::Netns;
use mesh_tests::prometheus::{self, Prometheus};
use serde_json::Value;
use std::time::Duration;

const QUERY: &str = "sum by (reporter,source_workload,destination_workload,destination_version,response_code) (istio_requests_total)";

pub(crate) fn metrics(stage: &Stage, step: &mut Step) -> Result<()> {
    for agent in &stage.agents {
        let (status, text) = agent.spec.get("/metrics")?;
        ensure!(status == 200, "/metrics answers {status}");
        let remarks = prometheus::promtool(&text)?;
        let name = &agent.spec.node.name;
        step.holds(
            &format!("promtool check metrics passes on {name} {}", remarks.join("; ")),
            remarks.is_empty(),
        );
    }
    let prometheus = Prometheus::start(&stage.ground)?;
    let seen = || prometheus.query(QUERY).ok();
    let wanted = |rows: &[Value], reporter: &str| {
        rows.iter().map(|row| &row["metric"]).any(|row| {
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
