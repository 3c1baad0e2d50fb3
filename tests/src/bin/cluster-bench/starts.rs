//! What the mesh adds to the start of a pod: one pod after the other, before Heddle is installed and after.

use crate::Size;
use crate::api::{Api, send};
use crate::enrol::{PAUSE, mesh};
use crate::table::{Table, percentile};
use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt as _;
use futures_util::io::{AsyncBufReadExt as _, BufReader};
use http::{Method, Request};
use mesh_tests::cluster::{Cluster, Namespace};
use mesh_tests::promtext;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// Milliseconds, one for each pod.
#[derive(Default)]
pub(crate) struct Starts {
    /// From the pod's creation to its condition Ready, as a watcher sees it.
    ready: Vec<f64>,
    /// The kubelet's own time for the runtime's RunPodSandbox, in which the CNI plug-ins run.
    sandbox: Vec<f64>,
}

/// Starts pods on the node, in the mesh or not.
pub(crate) fn start(cluster: &Cluster, api: &Api, node: &str, size: &Size, in_mesh: bool) -> Result<Starts> {
    let space = cluster.namespace("bench-starts")?;
    if in_mesh {
        mesh(api, &space.name, Some("enabled"))?;
    }
    let mut starts = Starts::default();
    // The first ones find caches cold that the others find warm.
    for i in 0..10 * size.rounds + 2 {
        let before = sandboxes(api, node)?;
        let ready = api.block_on(one(api, &space, node, &format!("pod-{i}")))?;
        let after = sandboxes(api, node)?;
        if i >= 2 {
            starts.ready.push(ready.as_secs_f64() * 1_000.0);
            if after.1 - before.1 == 1.0 {
                starts.sandbox.push((after.0 - before.0) * 1_000.0);
            }
        }
    }
    Ok(starts)
}

pub(crate) fn compare(outside: Result<Starts>, inside: Result<Starts>, table: &mut Table) {
    let (mut outside, mut inside) = match (outside, inside) {
        (Ok(outside), Ok(inside)) => (outside, inside),
        (Err(error), _) | (_, Err(error)) => return table.missing("pod start", &error),
    };
    table.percentiles(
        "RunPodSandbox without Heddle",
        &mut outside.sandbox,
        "ms",
        None,
        None,
    );
    table.percentiles("RunPodSandbox in the mesh", &mut inside.sandbox, "ms", None, None);
    for (name, share, goal) in [("p50", 0.5, None), ("p99", 0.99, Some(50.0))] {
        let added = percentile(&mut inside.sandbox, share)
            .zip(percentile(&mut outside.sandbox, share))
            .map(|(inside, outside)| inside - outside)
            .context("the kubelet did not tell");
        table.add(&format!("CNI add: added, {name} − {name}"), added, "ms", goal);
    }
    table.percentiles(
        "pod created → ready without Heddle",
        &mut outside.ready,
        "ms",
        None,
        None,
    );
    table.percentiles(
        "pod created → ready in the mesh",
        &mut inside.ready,
        "ms",
        None,
        None,
    );
    let ratio = percentile(&mut inside.ready, 0.5)
        .zip(percentile(&mut outside.ready, 0.5))
        .map(|(inside, outside)| inside / outside)
        .context("no pod started");
    table.add(
        "pod created → ready, p50 in the mesh / without",
        ratio,
        "",
        Some(1.05),
    );
}

/// Seconds and number of RunPodSandbox calls of the kubelet so far.
fn sandboxes(api: &Api, node: &str) -> Result<(f64, f64)> {
    let text = api.get(&format!("/api/v1/nodes/{node}/proxy/metrics"))?;
    let samples = promtext::parse(&text);
    let labels = [("operation_type", "run_podsandbox")];
    let sum = |part: &str| {
        let name = format!("kubelet_runtime_operations_duration_seconds_{part}");
        promtext::sum(&samples, &name, &labels)
    };
    Ok((sum("sum"), sum("count")))
}

async fn one(api: &Api, space: &Namespace, node: &str, name: &str) -> Result<Duration> {
    let pods = format!("/api/v1/namespaces/{}/pods", space.name);
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{"name": "idle", "image": PAUSE, "imagePullPolicy": "IfNotPresent"}]}});
    let client = api.client();
    let watch =
        Request::get(format!("{pods}?watch=1&fieldSelector=metadata.name%3D{name}")).body(Vec::new())?;
    let mut lines = BufReader::new(client.request_stream(watch).await?).lines();
    let created = Instant::now();
    send(&client, Method::POST, &pods, &object).await?;
    let ready = async {
        while let Some(line) = lines.try_next().await? {
            let event: Value = serde_json::from_str(&line)?;
            let mut conditions = event["object"]["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten();
            if conditions.any(|c| c["type"] == "Ready" && c["status"] == "True") {
                return Ok(created.elapsed());
            }
        }
        bail!("the watch of pod {name} ended")
    };
    let ready = tokio::time::timeout(LIMIT, ready).await;
    let ready = ready.with_context(|| format!("pod {name} is not ready after {LIMIT:?}"))??;
    let gone = Request::delete(format!("{pods}/{name}")).body(Vec::new())?;
    client.request_text(gone).await?;
    Ok(ready)
}
