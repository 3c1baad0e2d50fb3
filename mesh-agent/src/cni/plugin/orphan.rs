//! A plug-in that Heddle left behind: it was uninstalled while the agent of this node was dead, and nobody took the
//! plug-in along. Without an agent no pod of the node would start any more.
//!
//! No API server is asked: whoever could ask it went with the installation. The kubelet keeps a directory of logs for each
//! pod that is bound to its node, and removes it once the pod is gone from the API. A node to which no agent's pod is bound,
//! and on which no agent has lived for minutes, is none of the mesh's. Whatever cannot be known counts as a mesh that is
//! there.

use crate::cni::conflist::Orphaned;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// Where kubelets keep their pods' logs: `<namespace>_<pod>_<uid>`.
const POD_LOGS: &str = "/var/log/pods";
/// Agents' pods are called so, before a suffix of the DaemonSet's.
const AGENT: &str = "heddle-agent-";
/// A pod that is replaced is bound again long before this is over.
const LONG: Duration = Duration::from_secs(300);

/// Removes the mesh from this node if it has left. Whether it has, and nothing is in the way of pods any more.
pub(super) fn removed(orphaned: &Orphaned) -> bool {
    let silent = silence(&orphaned.life_sign).or_else(up);
    let bound = names(Path::new(POD_LOGS)).map(|names| agents(&names, &orphaned.namespace));
    if !has_left(silent, bound) {
        return false;
    }
    let cleanup = Command::new("/proc/self/exe")
        .args(&orphaned.cleanup)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    cleanup.is_ok_and(|status| status.success())
}

/// `silent`: for how long no agent has lived. `bound`: agents' pods that the kubelet knows.
fn has_left(silent: Option<Duration>, bound: Option<usize>) -> bool {
    bound == Some(0) && silent.is_some_and(|silent| silent >= LONG)
}

/// Agents among a kubelet's pods. A directory without any pod is not one that a kubelet uses.
fn agents(pods: &[String], namespace: &str) -> usize {
    let prefix = format!("{namespace}_{AGENT}");
    pods.iter().filter(|pod| pod.starts_with(&prefix)).count()
}

fn names(dir: &Path) -> Option<Vec<String>> {
    let entries = std::fs::read_dir(dir).ok()?;
    let names: Vec<String> = entries
        .map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect::<Option<_>>()?;
    (!names.is_empty()).then_some(names)
}

fn silence(life_sign: &Path) -> Option<Duration> {
    let at = std::fs::metadata(life_sign)
        .and_then(|meta| meta.modified())
        .ok()?;
    SystemTime::now().duration_since(at).ok()
}

/// Since the node has started: its life signs are gone with its memory.
fn up() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_has_left_when_no_agent_is_bound_to_the_node_and_none_has_lived_for_minutes() {
        let (long, short) = (Some(LONG), Some(LONG / 2));
        assert!(has_left(long, Some(0)));
        assert!(!has_left(short, Some(0)), "an agent that is being replaced");
        assert!(!has_left(long, Some(1)), "an agent that does not start");
        assert!(!has_left(long, None), "a kubelet that keeps its logs elsewhere");
        assert!(!has_left(None, Some(0)), "a clock that cannot be relied on");
    }

    #[test]
    fn agents_are_known_by_namespace_and_name() {
        let pods = [
            "heddle-system_heddle-agent-x7_uid",
            "other_heddle-agent-x7_uid",
            "heddle-system_web_uid",
        ];
        let pods = pods.map(str::to_owned);
        assert_eq!(agents(&pods, "heddle-system"), 1);
        assert_eq!(agents(&pods, "mesh"), 0);
        assert_eq!(names(Path::new("/nonexistent")), None);
    }
}
