//! One HTTPRoute for each service: the agent's memory, when a change of one of them is in force, and what it costs the
//! traffic. The route that is changed leads a running client's requests to the one or the other version of a server,
//! whose answers say which.

use crate::Size;
use crate::agent::Agent;
use crate::api::{Api, send};
use crate::enrol::PAUSE;
use crate::objects::{name, namespace};
use crate::pod;
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use http::Method;
use mesh_tests::cluster::{Cluster, ECHO, Namespace, machine_exec};
use mesh_tests::eventually;
use mesh_tests::podkit::last_json;
use mesh_tests::process::Place;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const GROUP: &str = "gateway.networking.k8s.io";
/// Of objects with the schema of HTTPRoutes that no agent reads.
const UNREAD_GROUP: &str = "bench.heddle.io";
const START: Duration = Duration::from_secs(180);
/// Requests a second, on kept connections.
const RATE: &str = "1000";
/// Between two changes of the route that is looked at. Of the others there are five times as many.
const PAUSE_BETWEEN: Duration = Duration::from_millis(200);
const OTHERS: u32 = 5;
/// MiB that the agent may have.
const MEMORY: f64 = 100.0;
/// How much longer a request may take while routes change.
const SLOWER: f64 = 1.3;
/// What a machine that does something else meanwhile may make of it.
const MUCH_SLOWER: f64 = 4.0;

pub(crate) fn measure(
    cluster: &Cluster,
    api: &Api,
    agent: &Agent,
    node: &str,
    size: &Size,
    crd: Option<&Path>,
    table: &mut Table,
) {
    table.heading(&format!(
        "{} HTTPRoutes, one for each service",
        size.mesh.services
    ));
    let measured = stage(cluster, api, agent, node, size, crd).and_then(|stage| {
        match stand_back() {
            Ok(()) => table.words("the control plane has what the others leave of the processor".to_owned()),
            Err(error) => table.missing("a control plane that leaves the processor to the traffic", &error),
        }
        std::thread::sleep(Duration::from_secs(5));
        agent.resident(table, "with these routes", MEMORY);
        stage.change(api, size, table)
    });
    if let Err(error) = measured {
        table.missing("HTTPRoutes", &error);
    }
}

/// The control plane has machines of its own elsewhere: here, what it computes for a write must not be taken for what the
/// agent does.
fn stand_back() -> Result<()> {
    let least = "set -e; cd /sys/fs/cgroup; if [ -e cpu/cpu.shares ]; then echo 2 >cpu/cpu.shares; else echo 1 >cpu.weight; fi";
    let work =
        std::env::var_os("KC_WORK").context("the control plane is not a machine of this cluster's own")?;
    machine_exec(Path::new(&work), "cp", &["sh", "-c", least]).map(drop)
}

/// A client and two versions of a server, with a route that leads to one of them.
struct Stage {
    space: Namespace,
    client: Place,
    /// Where the client dials.
    to: String,
    dir: PathBuf,
}

fn stage(
    cluster: &Cluster,
    api: &Api,
    agent: &Agent,
    node: &str,
    size: &Size,
    crd: Option<&Path>,
) -> Result<Stage> {
    if let Some(crd) = crd {
        let file = crd.to_str().context("the CRD's path is not UTF-8")?;
        cluster.kubectl(&["apply", "--server-side", "-f", file])?;
    }
    served(cluster, GROUP)?;
    cluster.apply(&unread_crd(cluster)?.to_string())?;
    served(cluster, UNREAD_GROUP)?;
    let space = cluster.namespace("bench-routes")?;
    crate::enrol::mesh(api, &space.name, Some("enabled"))?;
    space.apply(&application(node))?;
    for workload in ["deployment/echo-v1", "deployment/echo-v2", "deployment/client"] {
        space.rolled_out(workload, START)?;
    }
    let pods = cluster.json(&["-n", &space.name, "get", "pods", "-l", "app=client"])?;
    let uid = pods["items"][0]["metadata"]["uid"]
        .as_str()
        .context("the client has no pod")?;
    let service = cluster.json(&["-n", &space.name, "get", "service", "echo"])?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("the service has no address")?;
    for written in [Written::Unread, Written::Routes] {
        let live = (written.path(&space.name), live(&space.name, 1));
        let routes = (0..size.mesh.services)
            .map(|service| (written.path(&namespace(service)), of_service(service, 0)));
        let all = routes
            .chain([live])
            .map(|(path, route)| (path, written.object(route)));
        api.create_all(all)?;
    }
    let wanted = f64::from(size.mesh.services + 1);
    eventually("the agent to have every route", START, || {
        (agent.objects(api, "HTTPRoute").ok()? >= wanted).then_some(())
    })?;
    let dir = std::env::temp_dir().join(format!("heddle-{}", space.name));
    std::fs::create_dir_all(&dir)?;
    Ok(Stage {
        client: pod::place(uid)?,
        to: format!("{address}:80"),
        space,
        dir,
    })
}

fn served(cluster: &Cluster, group: &str) -> Result<()> {
    let kind = format!("crd/httproutes.{group}");
    let wait = ["wait", "--for=condition=Established", "--timeout=10s", &kind];
    // It fails at once where the CRD has no condition yet.
    eventually(&kind, START, || cluster.kubectl(&wait).ok()).map(drop)
}

/// The CRD of HTTPRoute under another group.
fn unread_crd(cluster: &Cluster) -> Result<Value> {
    let crd = cluster.json(&["get", &format!("crd/httproutes.{GROUP}")])?;
    let mut spec = crd["spec"].clone();
    spec["group"] = UNREAD_GROUP.into();
    Ok(
        json!({"apiVersion": crd["apiVersion"], "kind": crd["kind"], "spec": spec,
        "metadata": {"name": format!("httproutes.{UNREAD_GROUP}")}}),
    )
}

/// What is written while a client asks: the API server shares the machine, and its work is not the agent's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Objects that cost the API server as much.
    Unread,
    Routes,
}

impl Written {
    fn group(self) -> &'static str {
        match self {
            Self::Unread => UNREAD_GROUP,
            Self::Routes => GROUP,
        }
    }

    /// Where those of a namespace are.
    fn path(self, namespace: &str) -> String {
        format!("/apis/{}/v1/namespaces/{namespace}/httproutes", self.group())
    }

    fn object(self, mut route: Value) -> Value {
        route["apiVersion"] = format!("{}/v1", self.group()).into();
        route
    }
}

/// Writes of one kind. No two say the same: the API server would tell nobody of the second.
struct Series {
    written: Written,
    /// How often the live object was written; it begins with its first version.
    count: u32,
}

impl Series {
    fn of(written: Written) -> Self {
        Self { written, count: 0 }
    }
}

impl Stage {
    fn change(&self, api: &Api, size: &Size, table: &mut Table) -> Result<()> {
        let seconds = if size.rounds > 2 { 20 } else { 6 };
        // The first connections and the first certificate.
        self.load(2)?.wait()?;
        let idle = self.load(seconds)?.wait()?;
        let (mut times, mut failed) = (Vec::new(), idle.failed);
        // Of the quietest round: what else runs on the machine only ever makes one slower.
        let (mut calm, mut busy) = (f64::INFINITY, f64::INFINITY);
        let (mut unread, mut routes) = (Series::of(Written::Unread), Series::of(Written::Routes));
        for _ in 0..size.rounds {
            let (quiet, _) = self.meanwhile(api, size, seconds, &mut unread)?;
            let (seen, sent) = self.meanwhile(api, size, seconds, &mut routes)?;
            times.extend(in_force(&seen.trace, &sent)?);
            failed += quiet.failed + seen.failed;
            (calm, busy) = (calm.min(quiet.p99), busy.min(seen.p99));
            table.words(format!(
                "a round: p99 {:.3} ms while objects are written that nobody reads, {:.3} ms while routes are",
                quiet.p99, seen.p99
            ));
        }
        table.percentiles(
            "HTTPRoute change → first answer that follows it, from the write's sending",
            &mut times,
            "ms",
            Some(50.0),
            Some(500.0),
        );
        table.fact("requests of a client, p99, nothing is written", idle.p99, "ms");
        table.fact(
            "requests of a client, p99, as many are written that nobody reads, quietest round",
            calm,
            "ms",
        );
        table.fact(
            "requests of a client, p99, routes change, quietest round",
            busy,
            "ms",
        );
        table.rough(
            "requests of a client, p99, routes / what nobody reads",
            busy / calm,
            "",
            SLOWER,
            MUCH_SLOWER,
        );
        table.figure("requests that failed", failed, "", 0.0);
        Ok(())
    }

    /// A client's requests while objects are written, and of the live route's writes what [`in_force`] wants to know.
    fn meanwhile(
        &self,
        api: &Api,
        size: &Size,
        seconds: u64,
        series: &mut Series,
    ) -> Result<(Seen, Vec<(f64, u32)>)> {
        let load = self.load(seconds)?;
        let sent = self.write(api, size, Duration::from_secs(seconds - 1), series)?;
        Ok((load.wait()?, sent))
    }

    /// Writes the live object, one version after the other, and others beside it; gives when it was sent (milliseconds
    /// of Unix time), and the version.
    fn write(&self, api: &Api, size: &Size, time: Duration, series: &mut Series) -> Result<Vec<(f64, u32)>> {
        let (start, mut sent, mut other) = (Instant::now(), Vec::new(), 0);
        let written = series.written;
        while start.elapsed() < time {
            let begun = Instant::now();
            series.count += 1;
            let version = 1 + series.count % 2;
            sent.push((unix_ms()?, version));
            let path = format!("{}/echo", written.path(&self.space.name));
            put(api, &path, written.object(live(&self.space.name, version)))?;
            for _ in 0..OTHERS {
                other = (other + 7) % size.mesh.services;
                let path = format!("{}/{}", written.path(&namespace(other)), name(other));
                put(api, &path, written.object(of_service(other, series.count)))?;
            }
            std::thread::sleep(PAUSE_BETWEEN.saturating_sub(begun.elapsed()));
        }
        Ok(sent)
    }

    fn load(&self, seconds: u64) -> Result<Load> {
        let (trace, seconds) = (self.dir.join("trace"), seconds.to_string());
        let file = trace.display().to_string();
        let options = [
            "--rate",
            RATE,
            "--keepalive",
            "--field",
            "node",
            "--seconds",
            &seconds,
        ];
        let args = [
            &["load", "--to", &self.to, "--host", "echo", "--trace", &file][..],
            &options,
        ]
        .concat();
        let process = pod::podkit(&self.client, &args, &self.dir)?;
        Ok(Load { process, trace })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.dir);
    }
}

/// A client at work.
struct Load {
    process: mesh_tests::process::Proc,
    trace: PathBuf,
}

/// What a client saw.
struct Seen {
    p99: f64,
    failed: f64,
    trace: String,
}

impl Load {
    fn wait(mut self) -> Result<Seen> {
        self.process.wait(Duration::from_secs(90))?;
        let said = last_json(&self.process.stdout())?;
        Ok(Seen {
            p99: said["p99_ms"].as_f64().context("the client had no answer")?,
            failed: said["failed"].as_f64().context("what failed")?,
            trace: std::fs::read_to_string(&self.trace)?,
        })
    }
}

/// Milliseconds from each change to the end of the first request that was sent after it and answered by the version it
/// leads to. A request's times are whole milliseconds, rounded down.
fn in_force(trace: &str, sent: &[(f64, u32)]) -> Result<Vec<f64>> {
    let answers: Vec<Value> = trace
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let time = |answer: &Value, field: &str| answer[field].as_f64().unwrap_or_default();
    sent.iter()
        .map(|(at, version)| {
            let node = format!("v{version}");
            let follows = answers
                .iter()
                .filter(|answer| time(answer, "start_ms") >= at.floor() && answer["field"] == *node);
            let first = follows
                .map(|answer| time(answer, "end_ms") + 1.0)
                .reduce(f64::min);
            let first = first.with_context(|| format!("no request went to {node} after a change to it"))?;
            Ok(first - at)
        })
        .collect()
}

fn unix_ms() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1_000.0)
}

fn put(api: &Api, path: &str, mut object: Value) -> Result<()> {
    // Without it the API server takes no update of a custom object.
    let there = api.get_json(path)?;
    object["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"].clone();
    ensure!(
        object["metadata"]["resourceVersion"].is_string(),
        "{path} has no version"
    );
    api.block_on(send(&api.client(), Method::PUT, path, &object))
        .map(drop)
}

/// The route of a service of the large mesh; `round` makes it another one.
fn of_service(service: u32, round: u32) -> Value {
    let (name, namespace) = (name(service), namespace(service));
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": name, "port": 80}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": format!("/{round}")}}],
                "backendRefs": [{"name": name, "port": 80}]}]}})
}

fn live(namespace: &str, version: u32) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "echo", "namespace": namespace},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "echo", "port": 80}],
            "rules": [{"backendRefs": [{"name": format!("echo-v{version}"), "port": 80}]}]}})
}

fn application(node: &str) -> String {
    let deployment = |name: &str, labels: &str, container: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{{labels}}}}}\n  \
             template:\n    metadata: {{labels: {{{labels}}}}}\n    spec:\n      nodeName: {node}\n      \
             terminationGracePeriodSeconds: 0\n      containers: [{{name: c, imagePullPolicy: IfNotPresent, {container}}}]\n---\n"
        )
    };
    let service = |name: &str, selector: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{{selector}}}, \
             ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\n"
        )
    };
    let mut text =
        service("echo", "app: echo") + &deployment("client", "app: client", &format!("image: \"{PAUSE}\""));
    for version in ["v1", "v2"] {
        let labels = format!("app: echo, version: {version}");
        let container = format!("image: \"{ECHO}\", env: [{{name: NODE_NAME, value: {version}}}]");
        text += &deployment(&format!("echo-{version}"), &labels, &container);
        text += &service(&format!("echo-{version}"), &labels);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_in_force_when_a_later_request_follows_it() {
        let line = |start: u64, end: u64, node: &str| {
            json!({"start_ms": start, "end_ms": end, "field": node}).to_string() + "\n"
        };
        // The first answer by v2 was asked for before the change.
        let trace = line(90, 105, "v2") + &line(101, 103, "v1") + &line(104, 109, "v2");
        assert_eq!(in_force(&trace, &[(100.5, 2)]).unwrap(), [9.5]);
        assert!(in_force(&trace, &[(106.0, 1)]).is_err());
    }
}
