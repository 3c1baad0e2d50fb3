//! The agents and gateways of a cluster, asked through its API server: each answers inside its own pod, by `exec`. No port
//! is opened for it; who may ask is what RBAC says of `pods/exec` in the mesh's namespace, and in those of gateways.

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

/// Labels of gateways' pods, whoever deploys them.
const GATEWAYS: &str = "app.kubernetes.io/part-of=heddle,app.kubernetes.io/component=gateway";
/// Labels of a gateway's pod that may have the name of what it belongs to: its Gateway, its Deployment.
const NAMED_BY: [&str; 2] = ["gateway.networking.k8s.io/gateway-name", "app"];

/// A pod that answers.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) role: Role,
    pub(super) node: String,
    pub(super) namespace: String,
    pub(super) pod: String,
}

/// What it answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Its node.
    Agent,
    /// Itself.
    Gateway,
}

impl Member {
    /// What it answers for, in one word or two.
    pub(super) fn name(&self) -> String {
        match self.role {
            Role::Agent => self.node.clone(),
            Role::Gateway => format!("gateway {}/{}", self.namespace, self.pod),
        }
    }
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
    pub(super) async fn agents(&self) -> anyhow::Result<Vec<Member>> {
        let listed = self.pods().list(&ListParams::default().labels(AGENTS)).await;
        let listed = listed.with_context(|| format!("list pods of namespace {}", self.namespace))?;
        let mut agents: Vec<Member> = listed
            .items
            .into_iter()
            .filter_map(|pod| member(pod, Role::Agent))
            .collect();
        ensure!(
            !agents.is_empty(),
            "no pod with label {AGENTS} in namespace {}: is Heddle installed there (--mesh-namespace)?",
            self.namespace
        );
        agents.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(agents)
    }

    /// Every gateway that runs, by namespace and name; those of the mesh's own namespace where pods of others may not be
    /// listed, which is then said.
    ///
    /// # Errors
    /// They cannot be listed at all.
    pub(super) async fn gateways(&self) -> anyhow::Result<Vec<Member>> {
        let params = ListParams::default().labels(GATEWAYS);
        let listed = match Api::<Pod>::all(self.client.clone()).list(&params).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {
                eprintln!(
                    "gateways outside of {} are not asked: {}",
                    self.namespace, status.message
                );
                self.pods().list(&params).await
            }
            listed => listed,
        };
        let pods = listed.context("list the pods of gateways")?.items.into_iter();
        let mut gateways: Vec<Member> = pods
            .filter(runs)
            .filter_map(|pod| member(pod, Role::Gateway))
            .collect();
        gateways.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        Ok(gateways)
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
        let found = self.find(pod).await?;
        found.with_context(|| format!("pod {pod}: there is none"))
    }

    async fn find(&self, pod: &str) -> anyhow::Result<Option<Pod>> {
        let (namespace, name) = split(pod)?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        api.get_opt(name).await.with_context(|| format!("pod {pod}"))
    }

    /// Who knows what becomes of what `source` sends: of a pod (`namespace/name`) the agent of its node; of a gateway's pod,
    /// or of a gateway by the name of its Gateway or Deployment, that pod.
    ///
    /// # Errors
    /// No such pod or gateway, or its node has no agent.
    pub(super) async fn who_decides_for(&self, source: &str) -> anyhow::Result<Member> {
        let Some(found) = self.find(source).await? else {
            return self.gateway_named(source).await;
        };
        if is_gateway(&found) {
            return member(found, Role::Gateway)
                .with_context(|| format!("pod {source} is not scheduled yet"));
        }
        let node = found.spec.and_then(|spec| spec.node_name);
        let node = node.with_context(|| format!("pod {source} is not scheduled yet"))?;
        let mut agents = self.agents().await?.into_iter();
        agents
            .find(|agent| agent.node == node)
            .with_context(|| format!("node {node} of pod {source} has no agent"))
    }

    /// One of the pods of a gateway.
    async fn gateway_named(&self, gateway: &str) -> anyhow::Result<Member> {
        let (namespace, name) = split(gateway)?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pods = api.list(&ListParams::default().labels(GATEWAYS)).await;
        let pods = pods.with_context(|| format!("list the gateways of namespace {namespace}"))?;
        let mut own = pods.items.into_iter().filter(runs).filter(|pod| {
            let labels = pod.metadata.labels.as_ref();
            labels.is_some_and(|labels| {
                NAMED_BY
                    .iter()
                    .any(|key| labels.get(*key).is_some_and(|v| v == name))
            })
        });
        own.next()
            .and_then(|pod| member(pod, Role::Gateway))
            .with_context(|| format!("{gateway}: there is no pod and no running gateway of this name"))
    }

    /// Runs `heddle VERB --output json ARGS` in an agent's pod. A verb that ends with an error but prints JSON has answered.
    ///
    /// # Errors
    /// The API server or the verb refuses.
    pub(super) async fn ask(&self, agent: &Member, args: &[String]) -> anyhow::Result<Value> {
        let (verb, args) = args.split_first().context("no verb")?;
        let mut command = ["heddle", verb, "--output", "json"].map(str::to_owned).to_vec();
        command.extend_from_slice(args);
        let asking = self.exec(agent, &command);
        tokio::time::timeout(PATIENCE, asking)
            .await
            .unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
            .with_context(|| format!("pod {}/{} on node {}", agent.namespace, agent.pod, agent.node))
    }

    /// Asks all at once; the answers come in the order of `agents`.
    pub(super) async fn ask_all(
        &self,
        agents: &[Member],
        args: &[String],
    ) -> Vec<(Member, anyhow::Result<Value>)> {
        join_all(
            agents
                .iter()
                .map(async |agent| (agent.clone(), self.ask(agent, args).await)),
        )
        .await
    }

    async fn exec(&self, member: &Member, command: &[String]) -> anyhow::Result<Value> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &member.namespace);
        let mut process = pods.exec(&member.pod, command, &AttachParams::default()).await?;
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

fn split(name: &str) -> anyhow::Result<(&str, &str)> {
    name.split_once('/')
        .with_context(|| format!("{name:?}: write namespace/pod"))
}

fn member(pod: Pod, role: Role) -> Option<Member> {
    Some(Member {
        role,
        node: pod.spec?.node_name?,
        namespace: pod.metadata.namespace?,
        pod: pod.metadata.name?,
    })
}

fn runs(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

/// See [`GATEWAYS`].
fn is_gateway(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let has = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some(labels?.get(key)? == value)
    };
    GATEWAYS.split(',').all(|pair| has(pair) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_gateways_pod_is_known_by_its_labels() {
        let pod = |labels: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "gw-1", "namespace": "shop", "labels": labels},
                "spec": {"nodeName": "node1", "containers": []},
                "status": {"phase": "Running"},
            }))
            .unwrap()
        };
        let part = "app.kubernetes.io/part-of";
        let component = "app.kubernetes.io/component";
        let gateway = pod(json!({part: "heddle", component: "gateway", "app": "x"}));
        assert!(is_gateway(&gateway) && runs(&gateway));
        assert_eq!(
            member(gateway, Role::Gateway).unwrap().name(),
            "gateway shop/gw-1"
        );
        assert!(!is_gateway(&pod(json!({part: "heddle"}))));
        assert!(!is_gateway(&pod(json!({part: "other", component: "gateway"}))));
        let agent = pod(json!({}));
        assert_eq!(member(agent, Role::Agent).unwrap().name(), "node1");
    }
}
