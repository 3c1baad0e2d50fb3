//! What a guide for users sets up: its applications in its namespace, its services under their names, perhaps gateways;
//! and `kubectl apply -n`.

use crate::agent::{Agent, AgentSpec};
use crate::cluster_ip::{self, ClusterIp};
use crate::gateway;
use crate::manifests::{self, ConfigDir, PodOptions};
use crate::podkit::await_listening;
use crate::process::{Proc, built};
use crate::promtext::{self, Sample};
use crate::topology::{Pod, Topology};
use anyhow::{Context, Result};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Where the guides' gateways run.
pub const SYSTEM: &str = "istio-system";
/// The pod from which requests come; in the guide's namespace.
pub const CLIENT: &str = "sleep";
/// A pod outside of the mesh, on the other node.
pub const VISITOR: &str = "visitor";

/// A file of `tests/tests/seeds`: YAML as the guide has it.
#[macro_export]
macro_rules! seed {
    ($file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seeds/", $file))
    };
}

/// A running guide. Fields are dropped in this order: processes before the ground that they stand on.
#[derive(Debug)]
pub struct Guide {
    /// Of node 1 and node 2.
    pub agents: Vec<Agent>,
    /// Gateways, in the order in which they were asked for.
    pub gateways: Vec<Proc>,
    /// Applications, in the order of the pods.
    pub servers: Vec<Proc>,
    /// The agents' YAML.
    pub config: ConfigDir,
    namespace: &'static str,
    pods: Vec<(Planned, Arc<Pod>)>,
    services: Vec<Service>,
    /// Nodes and pods.
    pub ground: Topology,
}

#[derive(Clone, Debug)]
struct Planned {
    node: usize,
    name: String,
    namespace: &'static str,
    labels: Vec<(String, String)>,
    program: &'static str,
    args: Vec<String>,
}

#[derive(Clone, Debug)]
struct Service {
    name: String,
    number: u8,
    port: u16,
    target: u16,
    protocol: String,
}

impl Service {
    fn vip(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(10, 96, 2, self.number), self.port))
    }
}

/// Collects what a [`Guide`] shall have.
#[derive(Clone, Debug)]
pub struct Builder {
    namespace: &'static str,
    pods: Vec<Planned>,
    services: Vec<Service>,
    gateways: Vec<String>,
    agent_args: Vec<String>,
}

impl Guide {
    /// Starts to build one whose applications are in this namespace.
    #[must_use]
    pub fn of(namespace: &'static str) -> Builder {
        let builder = Builder {
            namespace,
            pods: Vec::new(),
            services: Vec::new(),
            gateways: Vec::new(),
            agent_args: Vec::new(),
        };
        builder.pod(1, CLIENT, CLIENT, "v1")
    }
}

impl Builder {
    /// Adds a pod with labels `app` and `version`.
    #[must_use]
    pub fn pod(mut self, node: usize, name: &str, app: &str, version: &str) -> Self {
        let labels = [("app", app), ("version", version)];
        self.pods.push(Planned {
            node,
            name: name.to_owned(),
            namespace: self.namespace,
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            program: "podkit",
            args: Vec::new(),
        });
        self
    }

    /// One more label of the last pod.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        if let Some(pod) = self.pods.last_mut() {
            pod.labels.push((key.to_owned(), value.to_owned()));
        }
        self
    }

    /// Runs this in the last pod; it must listen.
    #[must_use]
    pub fn runs(mut self, program: &'static str, args: &[&str]) -> Self {
        if let Some(pod) = self.pods.last_mut() {
            pod.program = program;
            pod.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        }
        self
    }

    /// An HTTP server by the pod's name.
    #[must_use]
    pub fn http(self, port: u16) -> Self {
        let name = self.pods.last().map(|pod| pod.name.clone()).unwrap_or_default();
        let listen = format!("[::]:{port}");
        self.runs("podkit", &["http-server", "--listen", &listen, "--name", &name])
    }

    /// Adds a service over the pods whose label `app` is its name, at 10.96.2.NUMBER; its port has this name, or none.
    #[must_use]
    pub fn service(mut self, name: &str, number: u8, port: u16, target: u16, protocol: &str) -> Self {
        self.services.push(Service {
            name: name.to_owned(),
            number,
            port,
            target,
            protocol: protocol.to_owned(),
        });
        self
    }

    /// Adds a gateway whose label `istio` and Service are as the guides have them: `ingressgateway`, `egressgateway`.
    #[must_use]
    pub fn gateway(mut self, role: &str) -> Self {
        self.gateways.push(role.to_owned());
        self
    }

    /// More arguments of both agents.
    #[must_use]
    pub fn agent_args(mut self, args: &[&str]) -> Self {
        self.agent_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Makes everything and waits until the pods are captured and the gateways ready.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(mut self) -> Result<Guide> {
        for role in &self.gateways {
            self.pods.push(of_gateway(role));
        }
        let mut ground = Topology::new()?;
        let visitor = ground.pod(2, VISITOR)?;
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        for planned in self.pods {
            let pod = ground.pod(planned.node, &planned.name)?;
            if !planned.args.is_empty() {
                let args: Vec<&str> = planned.args.iter().map(String::as_str).collect();
                let mut server = pod.spawn("app", &built(planned.program)?, &args)?;
                await_listening(&mut server)?;
                servers.push(server);
            }
            pods.push((planned, pod));
        }
        let mut guide = Guide {
            agents: Vec::new(),
            gateways: Vec::new(),
            servers,
            config: ConfigDir::new(ground.run())?,
            namespace: self.namespace,
            pods,
            services: self.services,
            ground,
        };
        guide.write_objects(&visitor)?;
        guide.start_agents(&self.agent_args)?;
        for role in &self.gateways {
            let gateway = guide.start_gateway(role)?;
            guide.gateways.push(gateway);
        }
        for role in &self.gateways {
            let pod = guide.pod(&format!("istio-{role}"));
            let at = SocketAddr::new(pod.v4.into(), 15021);
            let visitor = visitor.clone();
            crate::eventually("the gateway to be ready", Duration::from_secs(20), || {
                (visitor.netns.http_get(at, "/healthz/ready").ok()?.0 == 200).then_some(())
            })?;
        }
        Ok(guide)
    }
}

fn of_gateway(role: &str) -> Planned {
    let name = format!("istio-{role}");
    Planned {
        node: 1,
        labels: vec![
            ("app".to_owned(), name.clone()),
            ("istio".to_owned(), role.to_owned()),
        ],
        name,
        namespace: SYSTEM,
        program: "",
        args: Vec::new(),
    }
}

impl Guide {
    fn write_objects(&self, visitor: &Pod) -> Result<()> {
        let namespaces = manifests::namespace(self.namespace, true)
            + &manifests::namespace(SYSTEM, false)
            + &manifests::namespace("outside", false);
        self.config.write("00-namespaces.yaml", namespaces)?;
        let (mut services, mut cluster_ips) = (String::new(), Vec::new());
        for service in &self.services {
            services += &self.service_object(service);
            cluster_ips.push(ClusterIp {
                vip: service.vip(),
                endpoints: self
                    .pods
                    .iter()
                    .filter(|(planned, _)| planned.labels[0].1 == service.name)
                    .map(|(_, pod)| SocketAddr::new(pod.v4.into(), service.target))
                    .collect(),
            });
        }
        self.config.write("10-services.yaml", services)?;
        self.write_pods(&[])?;
        let stranger = PodOptions::default();
        self.config
            .write("21-visitor.yaml", manifests::pod("outside", visitor, &stranger))?;
        cluster_ip::serve(&self.ground, &cluster_ips)
    }

    fn service_object(&self, service: &Service) -> String {
        let namespace = if service.name.starts_with("istio-") {
            SYSTEM
        } else {
            self.namespace
        };
        let port = manifests::Port {
            name: &service.protocol,
            port: service.port,
            target: service.target,
        };
        let ips: [IpAddr; 1] = [service.vip().ip()];
        let selector = [("app", service.name.as_str())];
        let text = manifests::service(namespace, &service.name, &selector, &ips, &[port], &[]);
        // A port without a name, as in the guides of 2018.
        text.replace("  - name: \n    protocol", "  - protocol")
    }

    /// Writes the pods, without those that are scaled away.
    ///
    /// # Errors
    /// As the file system's.
    pub fn write_pods(&self, without: &[&str]) -> Result<()> {
        let there = self
            .pods
            .iter()
            .filter(|(planned, _)| !without.contains(&planned.name.as_str()));
        let text = there.map(|(planned, pod)| {
            let labels: Vec<(&str, &str)> = planned.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
            let options = PodOptions {
                labels: &labels,
                service_account: Some(labels[0].1),
                deployment: Some(&planned.name),
                unready: false,
            };
            manifests::pod(planned.namespace, pod, &options)
        });
        self.config.write("20-pods.yaml", text.collect::<String>())
    }

    fn start_agents(&mut self, extra: &[String]) -> Result<()> {
        for node in &self.ground.nodes {
            let mut spec = AgentSpec::new(self.ground.run(), node)?;
            spec.extra = extra.to_vec();
            self.agents.push(spec.start()?);
        }
        for agent in &mut self.agents {
            agent.ready(Duration::from_secs(20))?;
        }
        crate::eventually("the pods to be captured", Duration::from_secs(15), || {
            let of_agent = |agent: &Agent| {
                let status = agent.spec.heddle_json(&["status"]).ok()?;
                let pods = status["pods"].as_array()?.clone();
                let captured = pods.iter().filter(|pod| pod["captured"] == true).count();
                let mine = |(planned, pod): &&(Planned, Arc<Pod>)| {
                    planned.namespace == self.namespace && pod.node.name == agent.spec.node.name
                };
                (captured == self.pods.iter().filter(mine).count() && status["agent"]["settled"] == true)
                    .then_some(())
            };
            self.agents.iter().map(of_agent).collect()
        })
    }

    fn start_gateway(&self, role: &str) -> Result<Proc> {
        let pod = self.pod(&format!("istio-{role}"));
        // As container runtimes have it, so that the guides' port 80 needs no capability.
        pod.netns
            .sysctl(&[("net/ipv4/ip_unprivileged_port_start", "0")])?;
        let spec = AgentSpec::new(self.ground.run(), &self.ground.nodes[0])?;
        gateway::spawn(
            pod,
            &spec,
            SYSTEM,
            &pod.name,
            &format!("app={0},istio={role}", pod.name),
        )
    }

    /// A pod by its name.
    ///
    /// # Panics
    /// There is none: the test is wrong.
    #[must_use]
    pub fn pod(&self, name: &str) -> &Arc<Pod> {
        let found = self.ground.pods().iter().find(|pod| pod.name == name);
        found.unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// A service's address.
    ///
    /// # Panics
    /// There is none: the test is wrong.
    #[must_use]
    pub fn vip(&self, service: &str) -> SocketAddr {
        let found = self.services.iter().find(|s| s.name == service);
        found.unwrap_or_else(|| panic!("no service {service}")).vip()
    }

    /// `kubectl apply -n NAMESPACE -f`: writes the file, and waits until both agents have a snapshot with it.
    ///
    /// # Errors
    /// As the file system's; no snapshot comes; an agent says that something is wrong with it.
    pub fn apply(&self, file: &str, yaml: &str) -> Result<()> {
        let before = self.snapshots()?;
        let here = format!("metadata:\n  namespace: {}\n", self.namespace);
        let documents = yaml.split("\n---\n").map(|document| {
            if document.contains("\n  namespace: ") {
                document.to_owned()
            } else {
                document.replacen("metadata:\n", &here, 1)
            }
        });
        let text = documents.collect::<Vec<_>>().join("\n---\n");
        self.config.write(file, text)?;
        self.await_newer(file, &before)?;
        let status = self.agents[0].spec.heddle_json(&["status"])?;
        let mut problems = status["problems"].as_array().into_iter().flatten();
        let own = problems.find(|p| p["origin"].as_str().is_some_and(|o| o.starts_with(file)));
        anyhow::ensure!(own.is_none(), "{file}: {own:?}");
        Ok(())
    }

    fn snapshots(&self) -> Result<Vec<Value>> {
        let one = |agent: &Agent| -> Result<Value> {
            Ok(agent.spec.heddle_json(&["status"])?["agent"]["snapshot"].clone())
        };
        self.agents.iter().map(one).collect()
    }

    fn await_newer(&self, what: &str, before: &[Value]) -> Result<()> {
        crate::eventually(&format!("{what} in force"), Duration::from_secs(10), || {
            let now = self.snapshots().ok()?;
            before.iter().zip(&now).all(|(a, b)| a != b).then_some(())
        })
    }

    /// `kubectl delete -f`.
    ///
    /// # Errors
    /// As [`Guide::apply`].
    pub fn delete(&self, file: &str) -> Result<()> {
        let before = self.snapshots()?;
        self.config.remove(file)?;
        self.await_newer(file, &before)
    }

    /// `kubectl exec POD -- curl SERVICE`, with more arguments of `podkit get`.
    ///
    /// # Errors
    /// As [`Pod::podkit`].
    pub fn curl(&self, pod: &str, service: &str, more: &[&str]) -> Result<Value> {
        let to = self.vip(service);
        let host = format!("{service}:{}", to.port());
        let to = to.to_string();
        let args = ["get", "--to", &to, "--host", &host];
        self.pod(pod).podkit(&[&args[..], more].concat())
    }

    /// A request of the visitor to a gateway.
    ///
    /// # Errors
    /// As [`Pod::podkit`].
    pub fn visit(&self, role: &str, port: u16, host: &str, more: &[&str]) -> Result<Value> {
        let to = SocketAddr::new(self.pod(&format!("istio-{role}")).v4.into(), port).to_string();
        let args = ["get", "--to", &to, "--host", host];
        self.pod(VISITOR).podkit(&[&args[..], more].concat())
    }

    /// Load from the client on a service until it is stopped; without retries.
    ///
    /// # Errors
    /// It does not start.
    pub fn load(&self, service: &str, rate: &str, more: &[&str]) -> Result<Proc> {
        let to = self.vip(service);
        let (host, to) = (format!("{service}:{}", to.port()), to.to_string());
        let args = ["load", "--to", &to, "--host", &host, "--rate", rate];
        self.pod(CLIENT).serve(&[&args[..], more].concat())
    }

    /// How many requests with this `x-test-id` a pod's own HTTP server has got, over all paths.
    ///
    /// # Errors
    /// It does not answer.
    pub fn requests_at(&self, pod: &str, port: u16, test_id: &str) -> Result<u64> {
        let to = format!("127.0.0.1:{port}");
        let stats = self.pod(pod).podkit(&["get", "--to", &to, "--path", "/stats"])?;
        let counts = stats["last"]["body"]["counts"].as_object();
        let counts = counts.with_context(|| format!("{pod} gives no statistics: {stats}"))?;
        let prefix = format!("{test_id} ");
        let own = counts.iter().filter(|(key, _)| key.starts_with(&prefix));
        Ok(own.filter_map(|(_, count)| count.as_u64()).sum())
    }

    /// Metrics of one node's agent.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&self, node: usize) -> Result<Vec<Sample>> {
        self.agents[node].spec.metrics()
    }

    /// Sum of a metric over both agents.
    ///
    /// # Errors
    /// One does not answer.
    pub fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let one = |node| Ok(promtext::sum(&self.metrics(node)?, metric, labels));
        (0..self.agents.len()).map(one).sum()
    }
}
