//! From a namespace's label to the capture of its running pods.

use crate::Size;
use crate::agent::Agent;
use crate::api::Api;
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use mesh_tests::bpf_maps::PinnedMap;
use mesh_tests::cluster::{Cluster, Namespace, items};
use mesh_tests::release::Release;
use serde_json::json;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Does nothing, and so does not disturb what is measured.
pub(crate) const PAUSE: &str = "k8s.test/pause:1";
const START: Duration = Duration::from_secs(300);
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn measure(
    cluster: &Cluster,
    api: &Api,
    release: &Release,
    node: &str,
    size: &Size,
    table: &mut Table,
) {
    let what = format!("label → captured, {} running pods of a node", size.pods);
    match label(cluster, api, release, node, size) {
        Ok(mut times) => table.percentiles(&what, &mut times, "ms", None, Some(2_000.0)),
        Err(error) => table.missing(&what, &error),
    }
}

/// Milliseconds for each pod in each round.
fn label(cluster: &Cluster, api: &Api, release: &Release, node: &str, size: &Size) -> Result<Vec<f64>> {
    let space = cluster.namespace("bench-enrol")?;
    let addresses = pods(cluster, &space, node, size.pods)?;
    let captured = Agent::find(node, &release.space.name)?.map("LOCAL_PODS")?;
    let mut times = Vec::new();
    for _ in 0..size.rounds {
        let sent = Instant::now();
        mesh(api, &space.name, Some("enabled"))?;
        times.extend(watch(&captured, &addresses, sent, true)?);
        mesh(api, &space.name, None)?;
        watch(&captured, &addresses, Instant::now(), false)?;
    }
    Ok(times)
}

/// Has so many pods run on the node; gives the keys under which the data path would know them.
fn pods(cluster: &Cluster, space: &Namespace, node: &str, count: u32) -> Result<Vec<[u8; 16]>> {
    space.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: idle}}\nspec:\n  replicas: {count}\n  \
         selector: {{matchLabels: {{app: idle}}}}\n  template:\n    metadata: {{labels: {{app: idle}}}}\n    spec:\n      \
         nodeName: {node}\n      terminationGracePeriodSeconds: 0\n      \
         containers: [{{name: idle, image: \"{PAUSE}\", imagePullPolicy: IfNotPresent}}]\n"
    ))?;
    space.rolled_out("deployment/idle", START)?;
    let list = cluster.json(&["-n", &space.name, "get", "pods"])?;
    let addresses: Vec<[u8; 16]> = items(&list)
        .filter_map(|pod| pod["status"]["podIP"].as_str()?.parse().ok())
        .map(|ip| match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
        .collect();
    ensure!(
        addresses.len() == count as usize,
        "{} of {count} pods have an address",
        addresses.len()
    );
    Ok(addresses)
}

/// Sets a namespace's label, or takes it away.
pub(crate) fn mesh(api: &Api, namespace: &str, label: Option<&str>) -> Result<()> {
    let patch = json!({"metadata": {"labels": {"heddle.io/mesh": label}}});
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("/api/v1/namespaces/{namespace}"))
        .header("content-type", "application/merge-patch+json")
        .body(serde_json::to_vec(&patch)?)?;
    let client = api.client();
    api.block_on(client.request_text(request))
        .context("label a namespace")
        .map(drop)
}

/// When each address was in the map, or no longer in it, milliseconds after `sent`.
fn watch(captured: &PinnedMap, addresses: &[[u8; 16]], sent: Instant, wanted: bool) -> Result<Vec<f64>> {
    let mut waiting: Vec<&[u8; 16]> = addresses.iter().collect();
    let mut times = Vec::new();
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|ip| captured.get(*ip).is_some() != wanted);
        let now = sent.elapsed();
        times.extend(std::iter::repeat_n(
            now.as_secs_f64() * 1_000.0,
            before - waiting.len(),
        ));
        ensure!(
            now < LIMIT,
            "{} of {} pods are not captured after {LIMIT:?}",
            waiting.len(),
            addresses.len()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(times)
}
