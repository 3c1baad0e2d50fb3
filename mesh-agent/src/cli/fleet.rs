//! The agents of a cluster, asked through its API server: each answers for its node inside its own pod, by `exec`. No
//! port is opened for it; who may ask is what RBAC says of `pods/exec` in the mesh's namespace.

use anyhow::{Context, bail, ensure};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, ListParams};
use kube::{Api, Client};
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

/// Label of the DaemonSet's pods.
const AGENTS: &str = "app=heddle-agent";
/// How long one agent may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent's pod.
#[derive(Clone, Debug)]
pub(super) struct AgentPod {
    pub(super) node: String,
    pub(super) pod: String,
}

/// A cluster and where Heddle is installed in it.
pub(super) struct Fleet {
    client: Client,
    namespace: String,
}

impl Fleet {
    /// The cluster of the kubeconfig (`KUBECONFIG`, `~/.kube/config`), or the one that this runs in.
    ///
    /// # Errors
    /// Neither is there.
    pub(super) async fn connect(namespace: &str) -> anyhow::Result<Self> {
        let client = Client::try_default()
            .await
            .context("no agent on this machine, and no cluster: set KUBECONFIG, or --admin-socket")?;
        Ok(Self {
            client,
            namespace: namespace.to_owned(),
        })
    }

    /// The cluster's client.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Pods of the mesh's own namespace.
    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Every agent, by node.
    ///
    /// # Errors
    /// They cannot be listed, or there is none.
    pub(super) async fn agents(&self) -> anyhow::Result<Vec<AgentPod>> {
        let listed = self.pods().list(&ListParams::default().labels(AGENTS)).await;
        let listed = listed.with_context(|| format!("list pods of namespace {}", self.namespace))?;
        let mut agents: Vec<AgentPod> = listed.items.into_iter().filter_map(agent_pod).collect();
        ensure!(
            !agents.is_empty(),
            "no pod with label {AGENTS} in namespace {}: is Heddle installed there (--mesh-namespace)?",
            self.namespace
        );
        agents.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(agents)
    }

    /// Addresses of a pod (`namespace/name`).
    ///
    /// # Errors
    /// No such pod, or it has none yet.
    pub(super) async fn addresses_of(&self, pod: &str) -> anyhow::Result<Vec<IpAddr>> {
        let ips = self.pod(pod).await?.status.and_then(|status| status.pod_ips);
        let ips: Vec<IpAddr> = ips
            .into_iter()
            .flatten()
            .filter_map(|ip| ip.ip.parse().ok())
            .collect();
        ensure!(!ips.is_empty(), "pod {pod} has no address yet");
        Ok(ips)
    }

    async fn pod(&self, pod: &str) -> anyhow::Result<Pod> {
        let (namespace, name) = pod
            .split_once('/')
            .with_context(|| format!("{pod:?}: write namespace/pod"))?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        api.get(name).await.with_context(|| format!("pod {pod}"))
    }

    /// The agent of the node that runs this pod (`namespace/name`).
    ///
    /// # Errors
    /// No such pod, or its node has no agent.
    pub(super) async fn agent_of(&self, pod: &str) -> anyhow::Result<AgentPod> {
        let found = self.pod(pod).await?;
        let node = found.spec.and_then(|spec| spec.node_name);
        let node = node.with_context(|| format!("pod {pod} is not scheduled yet"))?;
        let mut agents = self.agents().await?.into_iter();
        agents
            .find(|agent| agent.node == node)
            .with_context(|| format!("node {node} of pod {pod} has no agent"))
    }

    /// Runs `heddle VERB --output json ARGS` in an agent's pod. A verb that ends with an error but prints JSON has answered.
    ///
    /// # Errors
    /// The API server or the verb refuses.
    pub(super) async fn ask(&self, agent: &AgentPod, args: &[String]) -> anyhow::Result<Value> {
        let (verb, args) = args.split_first().context("no verb")?;
        let mut command = ["heddle", verb, "--output", "json"].map(str::to_owned).to_vec();
        command.extend_from_slice(args);
        let asking = self.exec(&agent.pod, &command);
        tokio::time::timeout(PATIENCE, asking)
            .await
            .unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
            .with_context(|| format!("agent {} on node {}", agent.pod, agent.node))
    }

    /// Asks all at once; the answers come in the order of `agents`.
    pub(super) async fn ask_all(
        &self,
        agents: &[AgentPod],
        args: &[String],
    ) -> Vec<(AgentPod, anyhow::Result<Value>)> {
        join_all(
            agents
                .iter()
                .map(async |agent| (agent.clone(), self.ask(agent, args).await)),
        )
        .await
    }

    async fn exec(&self, pod: &str, command: &[String]) -> anyhow::Result<Value> {
        let mut process = self.pods().exec(pod, command, &AttachParams::default()).await?;
        let (mut out, mut err) = (String::new(), String::new());
        let mut stdout = process.stdout().context("no standard output")?;
        let mut stderr = process.stderr().context("no standard error")?;
        tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err))?;
        process.join().await.context("the connection to the pod broke")?;
        serde_json::from_str(out.trim()).map_err(|_| {
            let said = err.trim().trim_start_matches("error: ");
            anyhow::anyhow!("{}", if said.is_empty() { "it said nothing" } else { said })
        })
    }
}

fn agent_pod(pod: Pod) -> Option<AgentPod> {
    Some(AgentPod {
        node: pod.spec?.node_name?,
        pod: pod.metadata.name?,
    })
}
