//! What one more agent costs the API server: the same writes with and without a hundred more watchers, and what that
//! comes to at a thousand nodes.

use crate::Size;
use crate::api::{Api, send};
use crate::objects::{Mesh, name, namespace};
use crate::server;
use crate::table::Table;
use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::json;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::LocalSet;

const WATCHERS: u32 = 100;
const RATE: u32 = 50;
/// Longest time until all watchers are connected, and pause after it.
const CONNECT: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(2);

/// Nodes for which is extrapolated.
const NODES: f64 = 1_000.0;
/// Pods that are replaced a minute in all of the mesh.
const PODS_A_MINUTE: f64 = 1_000.0;
/// Writes of EndpointSlices for one replaced pod: the new one is there, it is ready, the old one is gone.
const WRITES_A_POD: f64 = 3.0;

struct Cost {
    /// CPU seconds of the API server for each event and watcher.
    each: f64,
    /// CPU seconds of the API server for each write, to nobody new.
    write: f64,
    /// Bytes of an event as JSON.
    bytes: f64,
    /// CPU seconds of the API server: idle, written to, written to and watched, watched.
    used: [f64; 4],
}

pub(crate) fn measure(api: &Api, size: &Size, table: &mut Table) {
    table.heading(&format!(
        "API server: {RATE} EndpointSlices/s of {} endpoints with and without {WATCHERS} more watchers",
        size.mesh.per_service()
    ));
    let cost = match cost(api, size) {
        Ok(cost) => cost,
        Err(error) => return table.missing("CPU of the API server for a watcher", &error),
    };
    let [idle, alone, watched, quiet] = cost.used;
    table.words(format!(
        "CPU of the API server: {idle:.2} s idle, {alone:.2} s written to, {watched:.2} s written to and watched, {quiet:.2} s watched"
    ));
    table.fact("API server: CPU for an event and watcher", cost.each * 1e6, "µs");
    table.fact("API server: CPU for a write", cost.write * 1e3, "ms");
    table.fact("an event of an EndpointSlice", cost.bytes, "bytes");
    extrapolate(&cost, table);
}

fn extrapolate(cost: &Cost, table: &mut Table) {
    table.heading(&format!(
        "extrapolated: {NODES} nodes, {PODS_A_MINUTE} pods/min rolling"
    ));
    let rate = PODS_A_MINUTE / 60.0 * WRITES_A_POD;
    table.words(format!(
        "{PODS_A_MINUTE} pods/min ÷ 60 × {WRITES_A_POD} writes of a slice each = {rate:.0} events/s"
    ));
    let fan_out = rate * NODES * cost.each;
    let writes = rate * cost.write;
    table.words(format!(
        "{rate:.0} events/s × {NODES} agents × {:.1} µs = {fan_out:.2} cores; {rate:.0} writes/s × {:.2} ms = {writes:.2} cores",
        cost.each * 1e6,
        cost.write * 1e3
    ));
    table.figure("API server: cores for all agents", fan_out, "cores", 2.0);
    table.words(format!("{rate:.0} events/s × {:.0} bytes", cost.bytes));
    table.figure("network for each agent", rate * cost.bytes / 1e3, "KB/s", 200.0);
}

fn cost(api: &Api, size: &Size) -> Result<Cost> {
    let seconds = Duration::from_secs(if size.rounds > 2 { 10 } else { 4 });
    let phases = [(0, false), (0, true), (WATCHERS, true), (WATCHERS, false)];
    let (mut used, mut bytes) = ([0.0; 4], 0.0);
    // There and back: what the API server still does for earlier writes becomes less, and that cancels out.
    for phase in [0, 1, 2, 3, 3, 2, 1, 0] {
        let (watchers, writes) = phases[phase];
        let (cpu, received) = busy(api, size, seconds, watchers, writes)?;
        used[phase] += cpu;
        bytes += received;
    }
    let [idle, alone, watched, quiet] = used;
    let events = 2.0 * seconds.as_secs_f64() * f64::from(RATE);
    ensure!(bytes > 0.0, "the watchers received nothing");
    let more = (watched - quiet) - (alone - idle);
    ensure!(
        more > 0.0,
        "the noise is larger than what is measured: {alone:.2} s of CPU without watchers ({idle:.2} idle), \
         {watched:.2} s with them ({quiet:.2} idle)"
    );
    Ok(Cost {
        each: more / (events * f64::from(WATCHERS)),
        write: (alone - idle) / events,
        bytes: bytes / (events * f64::from(WATCHERS)),
        used,
    })
}

/// CPU of the API server in this time, and bytes that the watchers received.
fn busy(api: &Api, size: &Size, time: Duration, watchers: u32, writes: bool) -> Result<(f64, f64)> {
    let received = Rc::new(Cell::new(0.0));
    let connected = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let version = api.get_json("/apis/discovery.k8s.io/v1/endpointslices?limit=1")?;
    let version = version["metadata"]["resourceVersion"]
        .as_str()
        .context("a list without version")?;
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let path = format!("/apis/discovery.k8s.io/v1/endpointslices?watch=1&resourceVersion={version}");
        let client = api.another_client()?;
        let (received, connected) = (Rc::clone(&received), Rc::clone(&connected));
        tasks.push(local.spawn_local(async move {
            let mut body = client
                .send(Request::get(path).body(Body::empty())?)
                .await?
                .into_body();
            connected.set(connected.get() + 1);
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
                received.set(received.get() + f64::from(u32::try_from(bytes)?));
            }
            anyhow::Ok(())
        }));
    }
    let start = Instant::now();
    while connected.get() < watchers {
        ensure!(
            start.elapsed() < CONNECT,
            "{} of {watchers} watchers are connected",
            connected.get()
        );
        api.block_on(local.run_until(async { tokio::time::sleep(Duration::from_millis(50)).await }));
    }
    // What a connection costs is not what an event costs.
    api.block_on(local.run_until(async { tokio::time::sleep(SETTLE).await }));
    if let Some(ended) = tasks.iter_mut().find(|task| task.is_finished()) {
        api.block_on(ended)?.context("a watcher")?;
        bail!("a watcher's connection was closed");
    }
    let (cpu, bytes) = (server::cpu(api)?, received.get());
    api.block_on(local.run_until(async {
        let (start, mut written) = (Instant::now(), 0);
        while start.elapsed() < time {
            if writes && start.elapsed().as_secs_f64() * f64::from(RATE) > f64::from(written) {
                written += 1;
                write(api, &size.mesh, written).await?;
            } else {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        anyhow::Ok(())
    }))?;
    let used = (server::cpu(api)? - cpu, received.get() - bytes);
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(used)
}

async fn write(api: &Api, mesh: &Mesh, round: u32) -> Result<()> {
    let service = 1 + round % (mesh.services - 1);
    let group = "/apis/discovery.k8s.io/v1/namespaces";
    let path = format!(
        "{group}/{}/endpointslices/{}-x7k2p",
        namespace(service),
        name(service)
    );
    let mut object = mesh.slice(service, |i| i == round % (mesh.per_service() + 1));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // A write that changes nothing is no event, and earlier parts of the bench wrote such objects.
    object["metadata"]["annotations"] = json!({"heddle.io/written": now.as_nanos().to_string()});
    send(&api.client(), Method::PUT, &path, &object).await.map(drop)
}
