//! A release of the chart on a cluster.

use crate::cluster::{Cluster, Namespace, items};
use crate::eventually;
use crate::process::built;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const NAME: &str = "heddle";
/// Longer than agents may drain.
const DRAINED: Duration = Duration::from_secs(90);

/// The chart's folder.
#[must_use]
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/heddle")
}

/// The chart, installed in a namespace of its own; uninstalled with the handle. One at a time: the names of its
/// cluster-wide objects are fixed.
#[derive(Debug)]
pub struct Release {
    /// Where it runs.
    pub cluster: Cluster,
    /// The install namespace.
    pub space: Namespace,
}

impl Release {
    /// `helm install`, with more arguments for it.
    ///
    /// # Errors
    /// helm's words.
    pub fn install(cluster: &Cluster, args: &[&str]) -> Result<Self> {
        let release = Self {
            cluster: cluster.clone(),
            space: cluster.namespace("heddle")?,
        };
        release.helm("install", args)?;
        Ok(release)
    }

    /// `helm upgrade`, with more arguments for it.
    ///
    /// # Errors
    /// helm's words.
    pub fn upgrade(&self, args: &[&str]) -> Result<()> {
        self.helm("upgrade", args)
    }

    /// `heddle check` of it, which says as JSON what it finds.
    ///
    /// # Errors
    /// The program is not built.
    pub fn check(&self) -> Result<Output> {
        Command::new(built("heddle")?)
            .args(["check", "--output", "json"])
            .args(["--mesh-namespace", &self.space.name])
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .output()
            .context("heddle check")
    }

    /// `helm rollback`.
    ///
    /// # Errors
    /// helm's words.
    pub fn rollback(&self, revision: u32) -> Result<()> {
        let revision = revision.to_string();
        let args = ["rollback", NAME, &revision, "-n", &self.space.name];
        self.cluster.helm(&args).map(drop)
    }

    /// `helm uninstall`, until its pods are gone.
    ///
    /// # Errors
    /// helm's words, or the pods stay.
    pub fn uninstall(&self) -> Result<()> {
        let args = [
            "uninstall",
            NAME,
            "-n",
            &self.space.name,
            "--ignore-not-found",
            "--wait",
        ];
        self.cluster.helm(&args)?;
        // helm waits for the DaemonSet only: its agents drain, and clear the nodes, after that.
        eventually("the agents to be gone", DRAINED, || {
            let agents = ["-n", &self.space.name, "get", "pods", "-l", "app=heddle-agent"];
            items(&self.cluster.json(&agents).ok()?)
                .next()
                .is_none()
                .then_some(())
        })
    }

    fn helm(&self, verb: &str, args: &[&str]) -> Result<()> {
        let chart = chart();
        let path = chart.to_str().context("the chart's path is not UTF-8")?;
        let fixed = [verb, NAME, path, "-n", &self.space.name];
        self.cluster.helm(&[&fixed[..], args].concat()).map(drop)
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        // What is left after a failure is the next install's to complain of.
        let _ = self.uninstall();
    }
}

/// What an installation may change on a node; `more` are patterns of files besides.
///
/// # Errors
/// The node does not answer.
pub fn marks_of(cluster: &Cluster, node: &str, more: &str) -> Result<String> {
    let look = format!(
        "cat /etc/cni/net.d/*; ls -A /etc/cni/net.d /opt/cni/bin; ls -dA {more} /sys/fs/bpf/* 2>/dev/null; \
         bpftool cgroup tree /sys/fs/cgroup/unified 2>/dev/null | grep -i heddle; true"
    );
    cluster.node_exec(node, &["sh", "-c", &look])
}
