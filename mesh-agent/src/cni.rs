//! The chained CNI plug-in: a pod of the mesh starts once it is captured, not before.
//!
//! The container runtime runs [`plugin`] for every sandbox; it asks the agent's [`server`] over a Unix socket and waits.
//! [`install`] puts program and entry on the node and keeps them there; [`conflist`] decides how the node's files
//! change.

pub mod conflist;
pub mod decision;
pub mod install;
mod json;
pub mod leave;
pub mod pending;
pub mod plugin;
pub mod server;

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the plug-in: its `type` in a network configuration, and its file name in the runtime's plug-in directory.
pub const PLUGIN_TYPE: &str = "heddle-cni";

/// Name of the agent's socket in its state directory.
pub const SOCKET_NAME: &str = "cni.sock";

/// File in the agent's state directory whose time says when an agent last lived.
pub const LIFE_SIGN: &str = "alive";

/// Largest body that plug-in and agent take from each other, bytes.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// A pod as the runtime names it in `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Arc<str>,
    /// `K8S_POD_NAME`.
    pub name: Arc<str>,
    /// `K8S_POD_UID`; containerd before 1.5 gives none. Of a static pod it is the config hash
    /// (`kubernetes.io/config.hash`), which is not the `metadata.uid` of its mirror in the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<Arc<str>>,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the runtime wants of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The sandbox has its network: capture it.
    Add,
    /// The sandbox goes away.
    Del,
    /// Is it as `Add` left it?
    Check,
}

impl Operation {
    /// Where the agent's socket takes it.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Add => "/cni/add",
            Self::Del => "/cni/del",
            Self::Check => "/cni/check",
        }
    }

    /// The operation behind a path of the socket.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check]
            .into_iter()
            .find(|operation| operation.path() == path)
    }
}

/// The plug-in's question: the body of a request on the agent's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// Which pod.
    #[serde(flatten)]
    pub pod: PodRef,
    /// `CNI_CONTAINERID`: the sandbox, of which a pod may have several in its life.
    pub container_id: String,
    /// `CNI_NETNS`, a path on the node. Absent in a `Del` after the namespace is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// What the plug-ins before gave the pod.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Answer {
    /// Every connection of the pod from here on is in the mesh. Also: a `Del` is noted.
    Captured,
    /// The pod is none of the mesh's.
    NotEnrolled {
        /// Why.
        why: String,
    },
    /// The pod belongs in the mesh and cannot be captured: it must not start.
    Failed {
        /// Why, for the pod's Event.
        reason: String,
    },
}

/// The agent's settings of the plug-in.
#[derive(Clone, Debug, clap::Args)]
pub struct CniConfig {
    /// Plug-in directory of the container runtime, mounted from the node. With --cni-conf-dir: install the chained CNI
    /// plug-in, so that pods start captured.
    #[arg(long, env = "HEDDLE_CNI_BIN_DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// CNI configuration directory of the container runtime, mounted from the node.
    #[arg(long, env = "HEDDLE_CNI_CONF_DIR", requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Namespaces whose pods start without asking the agent; they are captured after their start if they are enrolled.
    #[arg(
        long,
        env = "HEDDLE_CNI_EXCLUDE_NAMESPACES",
        value_delimiter = ',',
        default_value = "kube-system,heddle-system"
    )]
    pub cni_exclude_namespaces: Vec<String>,
    /// How long a pod's start waits for the agent before the kubelet must try again, seconds.
    #[arg(long, env = "HEDDLE_CNI_TIMEOUT_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub cni_timeout_seconds: u64,
    /// Start pods also when no agent answers: they are outside of the mesh until one does.
    #[arg(long, env = "HEDDLE_CNI_FAIL_OPEN", default_value_t = false, action = clap::ArgAction::Set)]
    pub cni_fail_open: bool,
    /// The node's root directory as this process sees it.
    #[arg(long, env = "HEDDLE_HOST_ROOT", default_value = "/proc/1/root")]
    pub host_root: PathBuf,
}

impl CniConfig {
    /// What is to be installed, if anything is. `state_dir` and `bpf_dir` have the same path on the node, and agents run in
    /// `namespace`.
    #[must_use]
    pub fn install(&self, state_dir: &Path, bpf_dir: &Path, namespace: &str) -> Option<install::Install> {
        let (bin_dir, conf_dir) = (self.cni_bin_dir.clone()?, self.cni_conf_dir.clone()?);
        let flags = [
            ("--state-dir", state_dir),
            ("--bpf-dir", bpf_dir),
            ("--cni-bin-dir", &bin_dir),
            ("--cni-conf-dir", &conf_dir),
        ];
        let flags = flags.map(|(flag, path)| format!("{flag}={}", path.display()));
        let orphaned = conflist::Orphaned {
            namespace: namespace.to_owned(),
            life_sign: state_dir.join(LIFE_SIGN),
            cleanup: std::iter::once("cleanup".to_owned()).chain(flags).collect(),
        };
        let entry = conflist::Entry::new(
            state_dir.join(SOCKET_NAME).display().to_string(),
            self.cni_timeout_seconds,
            self.cni_fail_open,
            self.cni_exclude_namespaces.clone(),
        );
        Some(install::Install {
            bin_dir,
            conf_dir,
            program: PathBuf::from("/proc/self/exe"),
            entry: entry.removing(orphaned),
        })
    }
}
