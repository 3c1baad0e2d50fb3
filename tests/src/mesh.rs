//! A mesh for the suites: two nodes with an agent each, pods with a server in them, services, and the YAML that says
//! so, all from one builder.

use crate::agent::{Agent, AgentSpec};
use crate::cluster_ip::{self, ClusterIp};
use crate::manifests::{self, ConfigDir, PodOptions, Port};
use crate::process::Proc;
use crate::topology::{Pod, Topology};
use anyhow::{Context, Result};
use serde_json::Value;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Namespace of the pods that are in the mesh.
pub const MESH: &str = "mesh";
/// Namespace of those that are not.
pub const PLAIN: &str = "plain";

/// A running mesh. Fields are dropped in this order: processes before the ground that they stand on.
#[derive(Debug)]
pub struct Mesh {
    /// Agents of node 1 and node 2; none before [`Mesh::start_agents`] if built with [`Builder::ground`].
    pub agents: Vec<Agent>,
    /// Servers, in the order in which they were asked for: pod name and process.
    pub servers: Vec<(String, Proc)>,
    /// The agents' YAML: `00-namespaces.yaml`, `10-services.yaml`, `20-pods.yaml`.
    pub config: ConfigDir,
    /// What the YAML is written from; change it and call [`Mesh::apply`].
    pub members: Vec<Member>,
    /// As `members`.
    pub services: Vec<Service>,
    /// Labels of the namespace [`MESH`].
    pub namespace_labels: Vec<(String, String)>,
    /// Nodes and pods.
    pub ground: Topology,
    agent_args: Vec<String>,
}

/// A pod and what its object says.
#[derive(Clone, Debug)]
pub struct Member {
    /// The pod.
    pub pod: Arc<Pod>,
    /// [`MESH`] or [`PLAIN`].
    pub namespace: &'static str,
    /// Its labels; `app` is its name unless told otherwise.
    pub labels: Vec<(String, String)>,
    /// Whether it is not ready.
    pub unready: bool,
    /// A port that its kubelet probes.
    pub probe: Option<u16>,
}

/// A service in the namespace [`MESH`] over the pods with its label `app`.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Value of `app` that it selects.
    pub app: String,
    /// Last part of its addresses 10.96.1.N and fd96::1:N; 0 for a headless one.
    pub number: u8,
    /// Port name, `tcp-…` for L4 (the service then gets `heddle.io/l7: disabled`), `http-…` and so on.
    pub protocol: String,
    /// Port of the service.
    pub port: u16,
    /// Port of the pods.
    pub target: u16,
}

impl Service {
    /// Its addresses with the port: IPv4, IPv6.
    #[must_use]
    pub fn vips(&self) -> [SocketAddr; 2] {
        let number = self.number;
        let v6 = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 1, u16::from(number));
        [
            SocketAddr::new(IpAddr::from([10, 96, 1, number]), self.port),
            SocketAddr::new(v6.into(), self.port),
        ]
    }
}

#[derive(Clone, Debug)]
struct Planned {
    node: usize,
    name: String,
    namespace: &'static str,
    app: String,
    probe: Option<u16>,
}

/// Collects what a [`Mesh`] shall have.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    pods: Vec<Planned>,
    servers: Vec<(String, Vec<String>)>,
    services: Vec<Service>,
    namespace_labels: Vec<(String, String)>,
    agent_args: Vec<String>,
}

impl Builder {
    /// Adds a pod of the mesh to node 1 or 2. Its label `app` and service account are its name.
    #[must_use]
    pub fn pod(mut self, node: usize, name: &str) -> Self {
        self.plan(node, name, MESH);
        self
    }

    /// Adds a pod of a namespace that is not in the mesh.
    #[must_use]
    pub fn outsider(mut self, node: usize, name: &str) -> Self {
        self.plan(node, name, PLAIN);
        self
    }

    fn plan(&mut self, node: usize, name: &str, namespace: &'static str) {
        self.pods.push(Planned {
            node,
            name: name.to_owned(),
            namespace,
            app: name.to_owned(),
            probe: None,
        });
    }

    /// The last pod's label `app`, in place of its name.
    #[must_use]
    pub fn app(mut self, app: &str) -> Self {
        if let Some(pod) = self.pods.last_mut() {
            pod.app = app.to_owned();
        }
        self
    }

    /// A port of the last pod that its kubelet probes.
    #[must_use]
    pub fn probe(mut self, port: u16) -> Self {
        if let Some(pod) = self.pods.last_mut() {
            pod.probe = Some(port);
        }
        self
    }

    /// Runs `podkit ARGS` in the last pod, where the argument `NAME` is the pod's name; it must listen.
    #[must_use]
    pub fn serve(mut self, args: &[&str]) -> Self {
        if let Some(pod) = self.pods.last() {
            let args = args
                .iter()
                .map(|arg| if *arg == "NAME" { &pod.name } else { *arg });
            self.servers
                .push((pod.name.clone(), args.map(str::to_owned).collect()));
        }
        self
    }

    /// `echo-server` on port 7000, by the pod's name.
    #[must_use]
    pub fn echo(self) -> Self {
        self.serve(&["echo-server", "--name", "NAME"])
    }

    /// `http-server` on port 8080, by the pod's name.
    #[must_use]
    pub fn http(self) -> Self {
        self.serve(&["http-server", "--name", "NAME"])
    }

    /// Adds a service: see [`Service`] for the meaning of each.
    #[must_use]
    pub fn service(
        mut self,
        name: &str,
        app: &str,
        number: u8,
        protocol: &str,
        port: u16,
        target: u16,
    ) -> Self {
        self.services.push(Service {
            name: name.to_owned(),
            app: app.to_owned(),
            number,
            protocol: protocol.to_owned(),
            port,
            target,
        });
        self
    }

    /// One more label of the namespace [`MESH`].
    #[must_use]
    pub fn namespace_label(mut self, key: &str, value: &str) -> Self {
        self.namespace_labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// More arguments of both agents.
    #[must_use]
    pub fn agent_args(mut self, args: &[&str]) -> Self {
        self.agent_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Makes everything but the agents.
    ///
    /// # Errors
    /// As [`Topology::new`]; a server does not start.
    pub fn ground(self) -> Result<Mesh> {
        let mut ground = Topology::new()?;
        let mut members = Vec::new();
        for planned in self.pods {
            members.push(Member {
                pod: ground.pod(planned.node, &planned.name)?,
                namespace: planned.namespace,
                labels: vec![("app".to_owned(), planned.app)],
                unready: false,
                probe: planned.probe,
            });
        }
        let mut mesh = Mesh {
            agents: Vec::new(),
            servers: Vec::new(),
            config: ConfigDir::new(ground.run())?,
            members,
            services: self.services,
            namespace_labels: self.namespace_labels,
            ground,
            agent_args: self.agent_args,
        };
        mesh.namespace_labels
            .push(("heddle.io/mesh".to_owned(), "enabled".to_owned()));
        for (pod, args) in self.servers {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let server = mesh.pod(&pod).serve(&args)?;
            mesh.servers.push((pod, server));
        }
        mesh.apply()?;
        mesh.serve_cluster_ips()?;
        Ok(mesh)
    }

    /// Makes everything, starts the agents and waits until every pod of the mesh is captured.
    ///
    /// # Errors
    /// As [`Builder::ground`] and [`Mesh::start_agents`].
    pub fn start(self) -> Result<Mesh> {
        let mut mesh = self.ground()?;
        mesh.start_agents()?;
        Ok(mesh)
    }
}

impl Mesh {
    /// Starts to build one.
    #[must_use]
    pub fn build() -> Builder {
        Builder::default()
    }

    /// How the agent of node 1 or 2 is started.
    ///
    /// # Errors
    /// As [`AgentSpec::new`].
    pub fn spec(&self, node: usize) -> Result<AgentSpec> {
        let mut spec = AgentSpec::new(self.ground.run(), &self.ground.nodes[node - 1])?;
        spec.extra.clone_from(&self.agent_args);
        Ok(spec)
    }

    /// Starts both agents and waits until every pod of the mesh is captured.
    ///
    /// # Errors
    /// An agent is not ready in 20 s, or a pod not captured in 10 s more.
    pub fn start_agents(&mut self) -> Result<()> {
        for node in [1, 2] {
            let agent = self.spec(node)?.start()?;
            self.agents.push(agent);
        }
        for agent in &mut self.agents {
            agent.ready(Duration::from_secs(20))?;
        }
        self.await_captured()
    }

    /// Waits until exactly the pods that the labels put into the mesh are captured and the kernel has what was written.
    ///
    /// # Errors
    /// Not within 10 s; the status is in the error.
    pub fn await_captured(&self) -> Result<()> {
        for agent in &self.agents {
            let mut last = Value::Null;
            crate::eventually("the pods to be captured", Duration::from_secs(10), || {
                last = agent.spec.heddle_json(&["status"]).ok()?;
                let settled = last["agent"]["settled"] == true;
                let right = self
                    .members
                    .iter()
                    .filter(|member| member.pod.node.name == agent.spec.node.name)
                    .all(|member| {
                        let name = format!("{}/{}", member.namespace, member.pod.name);
                        let entry = last["pods"]
                            .as_array()
                            .and_then(|pods| pods.iter().find(|p| p["pod"] == *name));
                        let captured = entry.is_some_and(|pod| pod["captured"] == true);
                        captured == member.wants_capture()
                    });
                (settled && right).then_some(())
            })
            .with_context(|| format!("status: {last:#}"))?;
        }
        Ok(())
    }

    /// Writes `members`, `services` and `namespace_labels` as YAML. Agents follow on their own.
    ///
    /// # Errors
    /// As the file system's.
    pub fn apply(&self) -> Result<()> {
        let labels = borrowed(&self.namespace_labels);
        self.config.write(
            "00-namespaces.yaml",
            manifests::namespace_with(MESH, &labels) + &manifests::namespace(PLAIN, false),
        )?;
        let mut services = String::new();
        for service in &self.services {
            let l4: &[(&str, &str)] = if service.protocol.starts_with("tcp") {
                &[("heddle.io/l7", "disabled")]
            } else {
                &[]
            };
            let ips = service.vips().map(|vip| vip.ip());
            let ips = if service.number == 0 { &[][..] } else { &ips };
            let port = Port {
                name: &service.protocol,
                port: service.port,
                target: service.target,
            };
            let selector = [("app", service.app.as_str())];
            services += &manifests::service(MESH, &service.name, &selector, ips, &[port], l4);
        }
        self.config.write("10-services.yaml", services)?;
        self.config.write(
            "20-pods.yaml",
            self.members.iter().map(Member::yaml).collect::<String>(),
        )
    }

    /// Serves the services' addresses to pods outside of the mesh, as kube-proxy does.
    ///
    /// # Errors
    /// As [`cluster_ip::serve`].
    pub fn serve_cluster_ips(&self) -> Result<()> {
        let all: Vec<ClusterIp> = self
            .services
            .iter()
            .filter(|service| service.number != 0)
            .flat_map(|service| {
                let endpoints: Vec<SocketAddr> = self
                    .members
                    .iter()
                    .filter(|m| m.namespace == MESH && !m.unready && m.label("app") == service.app)
                    .flat_map(|member| member.pod.ips())
                    .map(|ip| SocketAddr::new(ip, service.target))
                    .collect();
                service.vips().map(|vip| ClusterIp {
                    vip,
                    endpoints: endpoints.clone(),
                })
            })
            .collect();
        cluster_ip::serve(&self.ground, &all)
    }

    /// A pod by its name.
    ///
    /// # Panics
    /// There is none: the test is wrong.
    #[must_use]
    pub fn pod(&self, name: &str) -> &Arc<Pod> {
        let found = self.members.iter().find(|member| member.pod.name == name);
        &found.unwrap_or_else(|| panic!("no pod {name}")).pod
    }

    /// A member by its name.
    ///
    /// # Panics
    /// There is none: the test is wrong.
    pub fn member(&mut self, name: &str) -> &mut Member {
        let found = self.members.iter_mut().find(|member| member.pod.name == name);
        found.unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// A service by its name.
    ///
    /// # Panics
    /// There is none: the test is wrong.
    #[must_use]
    pub fn service(&self, name: &str) -> &Service {
        let found = self.services.iter().find(|service| service.name == name);
        found.unwrap_or_else(|| panic!("no service {name}"))
    }

    /// The agent's word on a pod in `heddle status`.
    ///
    /// # Errors
    /// The agent does not answer, or does not know the pod.
    pub fn status(&self, pod: &str) -> Result<Value> {
        let agent = &self.agents[usize::from(self.pod(pod).node.number) - 1];
        let status = agent.spec.heddle_json(&["status"])?;
        let pods = status["pods"].as_array().context("no pods in status")?;
        let found = pods.iter().find(|entry| {
            entry["pod"]
                .as_str()
                .is_some_and(|name| name.ends_with(&format!("/{pod}")))
        });
        found
            .cloned()
            .with_context(|| format!("{pod} is not in {status}"))
    }
}

impl Member {
    /// The value of a label, or the empty string.
    #[must_use]
    pub fn label(&self, key: &str) -> &str {
        self.labels
            .iter()
            .find(|(k, _)| k == key)
            .map_or("", |(_, value)| value)
    }

    /// Sets a label, or removes it if `value` is empty.
    pub fn set_label(&mut self, key: &str, value: &str) {
        self.labels.retain(|(other, _)| other != key);
        if !value.is_empty() {
            self.labels.push((key.to_owned(), value.to_owned()));
        }
    }

    fn wants_capture(&self) -> bool {
        match self.label("heddle.io/mesh") {
            "" => self.namespace == MESH,
            label => label == "enabled",
        }
    }

    /// Its object.
    #[must_use]
    pub fn yaml(&self) -> String {
        let options = PodOptions {
            labels: &borrowed(&self.labels),
            service_account: Some(&self.pod.name),
            deployment: None,
            unready: self.unready,
        };
        let text = manifests::pod(self.namespace, &self.pod, &options);
        let Some(port) = self.probe else { return text };
        let image = "    image: heddle.io/test\n";
        text.replace(
            image,
            &format!("{image}    readinessProbe:\n      httpGet:\n        path: /\n        port: {port}\n"),
        )
    }
}

fn borrowed(labels: &[(String, String)]) -> Vec<(&str, &str)> {
    labels
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}
