//! The agents' folder of YAML, changed as `kubectl apply` would: whole files, atomically.

use crate::run::Run;
use crate::topology::Pod;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A folder of YAML files that both agents watch.
#[derive(Clone, Debug)]
pub struct ConfigDir {
    dir: PathBuf,
    staging: PathBuf,
}

impl ConfigDir {
    /// The run's folder `config`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(run: &Run) -> Result<Self> {
        let (dir, staging) = (run.dir().join("config"), run.dir().join("config.staging"));
        for path in [&dir, &staging] {
            fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        }
        Ok(Self { dir, staging })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Puts a file in place by a rename, so that no reader sees half of it.
    ///
    /// # Errors
    /// As the file system's.
    pub fn write(&self, file: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let staged = self.staging.join(file);
        fs::write(&staged, text).with_context(|| format!("writing {}", staged.display()))?;
        fs::rename(&staged, self.dir.join(file)).with_context(|| format!("placing {file}"))
    }

    /// Replaces `from` by `to` throughout a file.
    ///
    /// # Errors
    /// There is no such file, or nothing to replace in it.
    pub fn edit(&self, file: &str, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(self.dir.join(file)).with_context(|| format!("reading {file}"))?;
        anyhow::ensure!(text.contains(from), "{file} has no {from:?} to replace");
        self.write(file, text.replace(from, to))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// There is none.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.dir.join(file)).with_context(|| format!("removing {file}"))
    }
}

/// A namespace; `mesh` puts it into the mesh.
#[must_use]
pub fn namespace(name: &str, mesh: bool) -> String {
    let labels: &[(&str, &str)] = if mesh {
        &[("heddle.io/mesh", "enabled")]
    } else {
        &[]
    };
    namespace_with(name, labels)
}

/// A namespace with these labels.
#[must_use]
pub fn namespace_with(name: &str, labels: &[(&str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    kubernetes.io/metadata.name: {name}\n"
    );
    for (key, value) in labels {
        let _ = writeln!(text, "    {key}: \"{value}\"");
    }
    text + "---\n"
}

/// What a pod's object says beyond its addresses.
#[derive(Clone, Debug, Default)]
pub struct PodOptions<'a> {
    /// Its labels.
    pub labels: &'a [(&'a str, &'a str)],
    /// Its service account; `default` if none.
    pub service_account: Option<&'a str>,
    /// Name of the Deployment that owns it (through a ReplicaSet), if any.
    pub deployment: Option<&'a str>,
    /// Whether it is not ready.
    pub unready: bool,
}

/// A running pod of the topology.
#[must_use]
pub fn pod(namespace: &str, pod: &Pod, options: &PodOptions<'_>) -> String {
    let mut text = format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n", pod.name);
    let _ = writeln!(text, "  namespace: {namespace}\n  uid: {}", pod.netns.name());
    let _ = writeln!(
        text,
        "  annotations:\n    heddle.io/netns: {}",
        pod.netns.path().display()
    );
    let mut labels: BTreeMap<&str, &str> = options.labels.iter().copied().collect();
    if options.deployment.is_some() {
        labels.insert("pod-template-hash", "5d4f7c9b8");
    }
    if !labels.is_empty() {
        let _ = writeln!(text, "  labels:");
        for (key, value) in labels {
            let _ = writeln!(text, "    {key}: \"{value}\"");
        }
    }
    if let Some(owner) = options.deployment {
        let _ = writeln!(
            text,
            "  ownerReferences:\n  - apiVersion: apps/v1\n    kind: ReplicaSet\n    name: {owner}-5d4f7c9b8\n    uid: {owner}\n    controller: true"
        );
    }
    let account = options.service_account.unwrap_or("default");
    let _ = writeln!(
        text,
        "spec:\n  nodeName: {}\n  serviceAccountName: {account}",
        pod.node.name
    );
    let _ = writeln!(text, "  containers:\n  - name: app\n    image: heddle.io/test");
    let ready = if options.unready { "False" } else { "True" };
    let _ = writeln!(
        text,
        "status:\n  phase: Running\n  podIP: {0}\n  podIPs:\n  - ip: {0}\n  - ip: \"{1}\"\n  hostIP: {2}",
        pod.v4, pod.v6, pod.node.v4
    );
    let _ = writeln!(
        text,
        "  conditions:\n  - type: Ready\n    status: \"{ready}\"\n---"
    );
    text
}

/// A port of a service.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// Its name, which tells the protocol (`http-…`, `grpc-…`, `tcp-…`).
    pub name: &'a str,
    /// The service's port.
    pub port: u16,
    /// The pods' port.
    pub target: u16,
}

/// A service; without `ips` it is headless.
#[must_use]
pub fn service(
    namespace: &str,
    name: &str,
    selector: &[(&str, &str)],
    ips: &[IpAddr],
    ports: &[Port<'_>],
    labels: &[(&str, &str)],
) -> String {
    let mut text =
        format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\n");
    if !labels.is_empty() {
        let _ = writeln!(text, "  labels:");
        for (key, value) in labels {
            let _ = writeln!(text, "    {key}: \"{value}\"");
        }
    }
    let _ = writeln!(text, "spec:\n  type: ClusterIP");
    match ips.first() {
        None => text.push_str("  clusterIP: None\n"),
        Some(first) => {
            let _ = writeln!(text, "  clusterIP: \"{first}\"\n  clusterIPs:");
            for ip in ips {
                let _ = writeln!(text, "  - \"{ip}\"");
            }
        }
    }
    let _ = writeln!(text, "  ipFamilyPolicy: PreferDualStack\n  selector:");
    for (key, value) in selector {
        let _ = writeln!(text, "    {key}: \"{value}\"");
    }
    let _ = writeln!(text, "  ports:");
    for Port { name, port, target } in ports {
        let _ = writeln!(
            text,
            "  - name: {name}\n    protocol: TCP\n    port: {port}\n    targetPort: {target}"
        );
    }
    text + "---\n"
}

/// A service account.
#[must_use]
pub fn service_account(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  namespace: {namespace}\n---\n"
    )
}
