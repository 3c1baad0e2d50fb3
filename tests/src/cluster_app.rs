//! An application on a cluster, with a load that counts what it loses; and an installation of Heddle that it comes into. Its
//! methods fail as tests do.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "what fails here fails the test that asked for it"
)]

use crate::cluster::{CLIENT, Cluster, ECHO, Namespace};
use crate::eventually;
use crate::release::Release;
use serde_json::Value;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);
const ROLLOUT: Duration = Duration::from_secs(180);

/// Two versions of an echo server on every node, a client that looks around, and one that asks without a pause.
#[derive(Debug)]
pub struct App {
    /// Where it is.
    pub cluster: Cluster,
    /// Its namespace.
    pub space: Namespace,
}

impl App {
    /// Starts it, outside of any mesh, and waits until it serves.
    #[must_use]
    pub fn open(cluster: &Cluster) -> Self {
        let space = cluster.namespace("app").unwrap();
        let spread = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, \
                      whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [pod-template-hash], labelSelector: {matchLabels: {app: echo}}}]";
        let version = |version: &str| {
            format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: echo-{version}}}\nspec:\n  replicas: 2\n  \
                 selector: {{matchLabels: {{app: echo, version: {version}}}}}\n  template:\n    \
                 metadata: {{labels: {{app: echo, version: {version}}}}}\n    spec:\n      terminationGracePeriodSeconds: 5\n      \
                 {spread}\n      containers: [{{name: echo, image: \"{ECHO}\", imagePullPolicy: IfNotPresent, \
                 env: [{{name: NODE_NAME, value: {version}}}], readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}, \
                 livenessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}]\n---\n"
            )
        };
        let pod = |name: &str, command: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
                 containers: [{{name: c, image: \"{CLIENT}\", imagePullPolicy: IfNotPresent, command: [sh, -c, '{command}']}}]\n---\n"
            )
        };
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: echo}\nspec: {selector: {app: echo}, ports: [{name: http, port: 80, targetPort: 8080}]}\n";
        space.apply(service).unwrap();
        let service = cluster
            .json(&["-n", &space.name, "get", "service", "echo"])
            .unwrap();
        let address = service["spec"]["clusterIP"].as_str().unwrap();
        // Not by DNS: that is another pod of the cluster, which has failures of its own.
        let asking = format!(
            "n=0; while :; do n=$((n+1)); curl -sf -o /dev/null -m 4 --resolve echo:80:{address} http://echo/ || \
             echo \"$n $(date +%T) $?\" >> /tmp/failed; echo $n > /tmp/count; done"
        );
        let yaml = version("v1") + &version("v2") + &pod("client", "sleep infinity") + &pod("load", &asking);
        space.apply(&yaml).unwrap();
        for workload in ["deployment/echo-v1", "deployment/echo-v2"] {
            space.rolled_out(workload, MINUTE).unwrap();
        }
        for pod in ["pod/client", "pod/load"] {
            cluster.wait(&space.name, pod, "condition=Ready", MINUTE).unwrap();
        }
        let app = Self {
            cluster: cluster.clone(),
            space,
        };
        // Until now the service had no endpoints.
        app.forgive();
        app
    }

    /// Starts it, and takes it into a mesh that is installed with these arguments; every pod is captured.
    #[must_use]
    pub fn in_mesh(cluster: &Cluster, args: &[&str]) -> (Self, Release) {
        let app = Self::open(cluster);
        let release = install(cluster, args);
        app.label("heddle.io/mesh=enabled");
        app.await_captured(&release, SOON);
        (app, release)
    }

    /// Requests so far, and a line for each that failed.
    #[must_use]
    pub fn load(&self) -> (u64, String) {
        let said = self
            .space
            .exec(
                "load",
                &["sh", "-c", "cat /tmp/count; cat /tmp/failed 2>/dev/null || true"],
            )
            .unwrap();
        let (count, failed) = said.split_once('\n').unwrap_or((&said, ""));
        (count.trim().parse().unwrap_or(0), failed.trim().to_owned())
    }

    /// Forgets what failed so far.
    pub fn forgive(&self) {
        self.space.exec("load", &["rm", "-f", "/tmp/failed"]).unwrap();
    }

    /// Forgets what failed until every identity has a certificate: after an API server was away, kube-proxies are late with
    /// a new controller's address.
    pub fn settle(&self, release: &Release) {
        let has_all = |status: &Value| {
            let certificates = status["certificates"].as_array();
            certificates.is_some_and(|all| all.iter().all(|row| row["state"] != "Missing"))
        };
        eventually("certificates for all", MINUTE * 2, || {
            let statuses = statuses(release);
            (!statuses.is_empty() && statuses.iter().all(has_all)).then_some(())
        })
        .unwrap();
        self.forgive();
    }

    /// Fails if a request has failed, now that twenty more have been answered.
    pub fn nothing_lost(&self, during: &str) {
        let (before, _) = self.load();
        eventually("more requests", MINUTE, || {
            (self.load().0 > before + 20).then_some(())
        })
        .unwrap();
        let (count, failed) = self.load();
        assert!(
            failed.is_empty(),
            "{during}: of {count} requests failed: {failed}"
        );
    }

    /// Labels its namespace.
    pub fn label(&self, label: &str) {
        self.cluster
            .kubectl(&["label", "--overwrite", "namespace", &self.space.name, label])
            .unwrap();
    }

    /// Which version answered each of `count` requests.
    #[must_use]
    pub fn versions(&self, count: usize, args: &str) -> Vec<String> {
        let ask = format!(
            "for i in $(seq {count}); do curl -sf -m 4 {args} http://echo/ || echo '{{}}'; echo; done"
        );
        let said = self.space.exec("client", &["sh", "-c", &ask]).unwrap();
        let lines = said.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let answer: Value = serde_json::from_str(line).unwrap_or_default();
                answer["node"].as_str().unwrap_or("failed").to_owned()
            })
            .collect()
    }

    /// Its pods.
    #[must_use]
    pub fn pods(&self) -> Vec<Value> {
        let list = self
            .cluster
            .json(&["-n", &self.space.name, "get", "pods"])
            .unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Pods of the application that are captured, as the agents say.
    #[must_use]
    pub fn captured(&self, release: &Release) -> usize {
        let prefix = format!("{}/", self.space.name);
        let of = |status: &Value| {
            let pods = status["pods"].as_array().into_iter().flatten();
            pods.filter(|pod| {
                pod["captured"] == true && pod["pod"].as_str().is_some_and(|name| name.starts_with(&prefix))
            })
            .count()
        };
        statuses(release).iter().map(of).sum()
    }

    /// Waits for what the cluster itself owes after a power cut: endpoints that are the pods' new addresses, and DNS
    /// on the nodes of both clients. kube-proxies back off for a while after an API server was away; until then
    /// names are looked up at an address that the DNS server had before.
    pub fn await_cluster(&self) {
        for (namespace, service, selector) in [
            (self.space.name.as_str(), "echo", "app=echo"),
            ("kube-system", "kube-dns", "k8s-app=kube-dns"),
        ] {
            let what = format!("{service}'s endpoints to be its pods");
            eventually(&what, MINUTE * 3, || {
                let (endpoints, pods) = self.cluster.serving(namespace, service, selector).ok()?;
                (!pods.is_empty() && endpoints == pods).then_some(())
            })
            .unwrap();
        }
        for pod in ["load", "client"] {
            eventually("DNS to answer", MINUTE, || {
                let look_up = ["nslookup", "kubernetes.default.svc.cluster.local"];
                self.space.exec(pod, &look_up).ok()
            })
            .unwrap();
        }
    }

    /// Waits until every pod is captured; how long that took.
    pub fn await_captured(&self, release: &Release, limit: Duration) -> Duration {
        let started = Instant::now();
        eventually("every pod to be captured", limit, || {
            (self.captured(release) == self.pods().len()).then_some(())
        })
        .unwrap();
        started.elapsed()
    }
}

/// What each agent says of itself; none of an agent that does not answer.
#[must_use]
pub fn statuses(release: &Release) -> Vec<Value> {
    let agents = release.space.pods("heddle-agent").unwrap();
    let status = |pod: &str| {
        let said = release
            .space
            .exec(pod, &["heddle", "status", "--output", "json"])
            .ok()?;
        serde_json::from_str(&said).ok()
    };
    agents.iter().filter_map(|agent| status(&agent.name)).collect()
}

/// Installs the chart with these arguments and waits until all of it serves.
#[must_use]
pub fn install(cluster: &Cluster, args: &[&str]) -> Release {
    let release = Release::install(cluster, &[&["--set", "crds.istio=true"], args].concat()).unwrap();
    for workload in ["daemonset/heddle-agent", "deployment/heddle-controller"] {
        release.space.rolled_out(workload, ROLLOUT).unwrap();
    }
    release
}
