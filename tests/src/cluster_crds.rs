//! The Gateway API's kinds, for suites that need them on a cluster.

use crate::cluster::Cluster;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The Gateway API's CRDs; those that were not there before go with the handle.
#[derive(Debug)]
pub struct GatewayCrds {
    cluster: Cluster,
    folder: Option<PathBuf>,
}

/// Installs the CRDs of the Gateway API's standard channel, unless the cluster has them.
///
/// # Errors
/// They are neither in the cluster nor in `HEDDLE_GATEWAY_CRDS` or target/conformance.
pub fn gateway_crds(cluster: &Cluster) -> Result<GatewayCrds> {
    let there = ["get", "crd", "httproutes.gateway.networking.k8s.io"];
    if cluster.kubectl(&there).is_ok() {
        return Ok(GatewayCrds {
            cluster: cluster.clone(),
            folder: None,
        });
    }
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/conformance/crd/standard");
    let folder = std::env::var_os("HEDDLE_GATEWAY_CRDS").map_or_else(built, PathBuf::from);
    let files = folder.to_str().filter(|_| folder.is_dir()).with_context(|| {
        format!(
            "no CRDs in {}: `cargo xtask conformance` collects them",
            folder.display()
        )
    })?;
    cluster.kubectl(&["apply", "--server-side", "-f", files])?;
    Ok(GatewayCrds {
        cluster: cluster.clone(),
        folder: Some(folder),
    })
}

impl Drop for GatewayCrds {
    fn drop(&mut self) {
        if let Some(files) = self.folder.as_ref().and_then(|folder| folder.to_str()) {
            // What is left after a failure is found by the next one, and taken as the cluster's.
            let _ = self
                .cluster
                .kubectl(&["delete", "--ignore-not-found", "--wait=false", "-f", files]);
        }
    }
}
