//! What the mesh adds to the start of a pod: one pod after the other, before Heddle is installed and after.

use crate::Size;
use crate::api::{Api, send};
use crate::enrol::{PAUSE, mesh};
use crate::table::{Table, percentile};
use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt as _;
use futures_util::io::AsyncBufReadExt as _;
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

/// Starts pods on the node, in the mesh or not, beside one that runs all the time.
pub(crate) fn start(cluster: &Cluster, api: &Api, node: &str, size: &Size, in_mesh: bool) -> Result<Starts> {
    let space = space(cluster, api, in_mesh)?;
    let pod = Pod {
        node,
        name: "resident",
        account: "default",
    };
    api.block_on(pod.start(api, &space))?;
    let mut starts = Starts::default();
    // The first ones find caches cold that the others find warm.
    for i in 0..8 * size.rounds + 2 {
        let name = format!("pod-{i}");
        let pod = Pod { name: &name, ..pod };
        starts.add(api, &space, &pod, i >= 2)?;
    }
    Ok(starts)
}

/// As [`start`], in the mesh, each pod the first of its service account on the node.
pub(crate) fn first_of_account(cluster: &Cluster, api: &Api, node: &str, size: &Size) -> Result<Starts> {
    let space = space(cluster, api, true)?;
    let mut starts = Starts::default();
    for i in 0..3 * size.rounds {
        let name = format!("first-{i}");
        cluster.kubectl(&["-n", &space.name, "create", "serviceaccount", &name])?;
        let pod = Pod {
            node,
            name: &name,
            account: &name,
        };
        starts.add(api, &space, &pod, true)?;
    }
    Ok(starts)
}

fn space(cluster: &Cluster, api: &Api, in_mesh: bool) -> Result<Namespace> {
    let space = cluster.namespace("bench-starts")?;
    if in_mesh {
        mesh(api, &space.name, Some("enabled"))?;
    }
    Ok(space)
}

impl Starts {
    /// Starts a pod and removes it.
    fn add(&mut self, api: &Api, space: &Namespace, pod: &Pod<'_>, counts: bool) -> Result<()> {
        let before = sandboxes(api, pod.node)?;
        let ready = api.block_on(pod.start(api, space))?;
        let after = sandboxes(api, pod.node)?;
        let gone = Request::delete(format!("/api/v1/namespaces/{}/pods/{}", space.name, pod.name));
        api.block_on(api.client().request_text(gone.body(Vec::new())?))?;
        if counts {
            self.ready.push(ready.as_secs_f64() * 1_000.0);
            // Of several nothing is known of this one.
            if (0.5..1.5).contains(&(after.1 - before.1)) {
                self.sandbox.push((after.0 - before.0) * 1_000.0);
            }
        }
        Ok(())
    }
}

pub(crate) fn compare(
    outside: Result<Starts>,
    inside: Result<Starts>,
    first: Result<Starts>,
    table: &mut Table,
) {
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
    match first {
        Ok(mut first) => {
            let what = "RunPodSandbox in the mesh, first pod of an account";
            table.percentiles(what, &mut first.sandbox, "ms", None, None);
        }
        Err(error) => table.missing("RunPodSandbox in the mesh, first pod of an account", &error),
    }
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

struct Pod<'a> {
    node: &'a str,
    name: &'a str,
    account: &'a str,
}

impl Pod<'_> {
    /// Creates it; gives the time until a watcher sees that it is ready.
    async fn start(&self, api: &Api, space: &Namespace) -> Result<Duration> {
        let (pods, name) = (format!("/api/v1/namespaces/{}/pods", space.name), self.name);
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": self.node, "serviceAccountName": self.account, "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "containers": [{"name": "idle", "image": PAUSE, "imagePullPolicy": "IfNotPresent"}]}});
        let client = api.client();
        let watch = format!("{pods}?watch=1&fieldSelector=metadata.name%3D{name}");
        let mut lines = client
            .request_stream(Request::get(watch).body(Vec::new())?)
            .await?
            .lines();
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
        ready.with_context(|| format!("pod {name} is not ready after {LIMIT:?}"))?
    }
}
