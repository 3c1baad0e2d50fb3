//! Which pod a process belongs to, by `/proc/<pid>/cgroup`.
//!
//! The kubelet names a pod's cgroup `pod<uid>` (cgroupfs driver) or `…-pod<uid>.slice` with `_` for `-` (systemd driver;
//! pkg/kubelet/cm). Containers are below it, with names of the runtime's own.

/// The pod of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodCgroup {
    /// UID as the kubelet knows it.
    pub(super) uid: String,
    /// In a container of the pod; else a shim or monitor of the runtime, which lives in the pod's cgroup, not in its
    /// network.
    pub(super) in_container: bool,
}

/// The pods whose cgroups a process is in, outermost first: in a cluster within a pod there are several.
///
/// The text has one line for each v1 hierarchy and one (`0::`) for v2. Seen from inside a cgroup namespace, paths are
/// relative to it (`/../../pod<uid>/…`, cgroup_namespaces(7)), so that `kubepods` may be missing before the pod.
pub(super) fn pod_cgroups(text: &str) -> Vec<PodCgroup> {
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .map(of_path)
        .find(|pods| !pods.is_empty())
        .unwrap_or_default()
}

fn of_path(path: &str) -> Vec<PodCgroup> {
    // A colon separates where a runtime is told a systemd path and makes a directory of it
    // (`kubepods-burstable-pod<uid>.slice:cri-containerd:<container>`).
    let segments: Vec<&str> = path
        .split(['/', ':'])
        .filter(|segment| !segment.is_empty())
        .collect();
    segments
        .iter()
        .enumerate()
        .filter_map(|(at, segment)| {
            Some(PodCgroup {
                uid: pod_uid(segment)?,
                in_container: segments.get(at + 1).is_some_and(|next| !is_monitor(next)),
            })
        })
        .collect()
}

/// CRI-O's conmon.
fn is_monitor(segment: &str) -> bool {
    segment.starts_with("crio-conmon-")
}

fn pod_uid(segment: &str) -> Option<String> {
    let uid = match segment.strip_suffix(".slice") {
        // With a cgroup root of its own the kubelet's slices begin with that root's name.
        Some(slice) => {
            let (before, uid) = slice.rsplit_once("-pod")?;
            let kubepods = before.split('-').any(|part| part == "kubepods");
            kubepods.then(|| uid.replace('_', "-"))?
        }
        None => segment.strip_prefix("pod")?.to_owned(),
    };
    is_uid(&uid).then_some(uid)
}

/// A UUID, or the MD5 of a static pod's manifest.
fn is_uid(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    hexadecimal && (groups == [8, 4, 4, 4, 12] || groups == [32])
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
    const STATIC: &str = "d2e3bc2f1d3a4b5c6d7e8f9012345678";
    const CID: &str = "8c5b2f0a3d9e4c7b8a6f5e4d3c2b1a09f8e7d6c5b4a392817060504030201000";

    #[test]
    fn pods_are_found_in_the_paths_that_kubelets_and_runtimes_make() {
        let systemd = "3f2504e0_4f89_41d3_9a0c_0305e82c3301";
        let cases = [
            // cgroupfs driver, v2, each class.
            (format!("0::/kubepods/besteffort/pod{UID}/{CID}"), UID, true),
            (format!("0::/kubepods/burstable/pod{UID}/{CID}"), UID, true),
            (format!("0::/kubepods/pod{UID}/{CID}"), UID, true),
            // Static pod of kubeadm.
            (format!("0::/kubepods/burstable/pod{STATIC}/{CID}"), STATIC, true),
            // cgroupfs driver, v1 and hybrid: any hierarchy names the pod, the first line may not.
            (
                format!(
                    "12:name=systemd:/\n11:pids:/kubepods/besteffort/pod{UID}/{CID}\n\
                     4:memory:/kubepods/besteffort/pod{UID}/{CID}\n0::/\n"
                ),
                UID,
                true,
            ),
            (
                format!(
                    "9:name=systemd:/kubepods/besteffort/pod{UID}/{CID}\n0::/kubepods/besteffort/pod{UID}/{CID}"
                ),
                UID,
                true,
            ),
            // systemd driver: containerd, CRI-O, Docker.
            (
                format!(
                    "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{systemd}.slice/cri-containerd-{CID}.scope"
                ),
                UID,
                true,
            ),
            (
                format!("0::/kubepods.slice/kubepods-pod{systemd}.slice/cri-containerd-{CID}.scope"),
                UID,
                true,
            ),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/crio-{CID}.scope"
                ),
                UID,
                true,
            ),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/crio-{CID}.scope/container"
                ),
                UID,
                true,
            ),
            (
                format!(
                    "1:name=systemd:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/docker-{CID}.scope"
                ),
                UID,
                true,
            ),
            // Static pod, systemd driver.
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{CID}.scope"
                ),
                STATIC,
                true,
            ),
            // kind: the kubelet has a cgroup root.
            (
                format!(
                    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{systemd}.slice/cri-containerd-{CID}.scope"
                ),
                UID,
                true,
            ),
            (
                format!("0::/kubelet/kubepods/besteffort/pod{UID}/{CID}"),
                UID,
                true,
            ),
            // containerd without SystemdCgroup under a kubelet with the systemd driver.
            (
                format!(
                    "0::/system.slice/containerd.service/kubepods-besteffort-pod{systemd}.slice:cri-containerd:{CID}"
                ),
                UID,
                true,
            ),
            // Seen from the agent's own cgroup namespace.
            (format!("0::/../../besteffort/pod{UID}/{CID}"), UID, true),
            (format!("0::/../../pod{UID}/{CID}"), UID, true),
            (
                format!("0::/../../kubepods-besteffort-pod{systemd}.slice/cri-containerd-{CID}.scope"),
                UID,
                true,
            ),
            // A service manager inside a container.
            (
                format!(
                    "0::/kubepods.slice/kubepods-pod{systemd}.slice/cri-containerd-{CID}.scope/system.slice/sshd.service"
                ),
                UID,
                true,
            ),
            // The runtime's own processes.
            (
                format!("0::/kubepods.slice/kubepods-pod{systemd}.slice/crio-conmon-{CID}.scope"),
                UID,
                false,
            ),
            (format!("0::/kubepods/besteffort/pod{UID}"), UID, false),
        ];
        for (text, uid, in_container) in cases {
            let expected = vec![PodCgroup {
                uid: uid.to_owned(),
                in_container,
            }];
            assert_eq!(pod_cgroups(&text), expected, "{text}");
        }
    }

    #[test]
    fn processes_of_no_pod_are_left_alone() {
        for text in [
            "",
            "0::/",
            "0::/init.scope",
            "0::/system.slice/containerd.service",
            "0::/kubepods.slice",
            "0::/kubepods.slice/kubepods-burstable.slice",
            "0::/user.slice/podman-1234.scope",
            "0::/system.slice/system-pod.slice/pods/podinfo/poddeadbeef",
            "0::/kubepods/besteffort/pod3f2504e0-4f89-41d3-9a0c/x",
            "no colon at all",
        ] {
            assert_eq!(pod_cgroups(text), [], "{text}");
        }
    }

    #[test]
    fn a_cluster_within_a_pod_shows_both_pods() {
        let inner = "11111111-2222-3333-4444-555555555555";
        let text =
            format!("0::/kubepods/burstable/pod{UID}/{CID}/kubelet/kubepods/besteffort/pod{inner}/{CID}");
        let uids: Vec<String> = pod_cgroups(&text).into_iter().map(|pod| pod.uid).collect();
        assert_eq!(uids, [UID, inner]);
    }
}
