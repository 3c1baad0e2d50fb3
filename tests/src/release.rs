//! A release of the chart on a cluster.

use crate::cluster::{Cluster, Namespace};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

const NAME: &str = "heddle";

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
    /// helm's words.
    pub fn uninstall(&self) -> Result<()> {
        let args = ["uninstall", NAME, "-n", &self.space.name, "--wait"];
        self.cluster.helm(&args).map(drop)
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
        let args = [
            "uninstall",
            NAME,
            "-n",
            &self.space.name,
            "--ignore-not-found",
            "--wait",
        ];
        // What is left after a failure is the next install's to complain of.
        let _ = self.cluster.helm(&args);
    }
}
