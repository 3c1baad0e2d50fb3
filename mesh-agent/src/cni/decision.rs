//! What the plug-in is told of a pod. Pure.

use super::server::CniRequest;
use super::{Answer, Operation};
use mesh_core::model::workload::{Enrollment, Workload};
use std::time::Duration;

/// A capture that fails is tried again by the agent; only what still fails after this long is told to the kubelet, which
/// would throw the sandbox away.
const FAILURE_GRACE: Duration = Duration::from_secs(1);

/// How far the data path is with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture<'a> {
    /// Its connections are captured.
    Captured,
    /// Its last capture failed, for this reason.
    Failed(&'a str),
    /// Not tried yet.
    NotYet,
}

/// The answer to a question that has waited for so long, or `None` while it cannot be known. `pod` is the workload of
/// this namespace and name, with the sandbox of the question already told to the state.
#[must_use]
pub fn decide(
    request: &CniRequest,
    pod: Option<&Workload>,
    capture: Capture<'_>,
    waited: Duration,
) -> Option<Answer> {
    if request.operation == Operation::Del {
        return Some(Answer::Captured);
    }
    // The runtime knows of a pod before the watch does, or the watch still shows one that had its name before.
    let pod = pod.filter(|pod| is_same_pod(request, pod))?;
    match pod.enrollment {
        Enrollment::NoAddress => None,
        Enrollment::Enrolled if request.netns.is_some() && pod.netns != request.netns => None,
        Enrollment::Enrolled => match capture {
            Capture::Captured => Some(Answer::Captured),
            Capture::Failed(reason) if waited >= FAILURE_GRACE => Some(Answer::Failed {
                reason: reason.to_owned(),
            }),
            Capture::Failed(_) | Capture::NotYet => None,
        },
        other => Some(Answer::NotEnrolled {
            why: other.describe().to_owned(),
        }),
    }
}

/// Whether a workload of the right name is the pod of the question, and not an earlier or later one.
#[must_use]
pub fn is_same_pod(request: &CniRequest, pod: &Workload) -> bool {
    // The runtime's UID of a static pod is no UUID and not the one that the API knows; its name has the node's name in
    // it and is not used twice.
    let uid = request.pod.uid.as_deref().filter(|uid| uid.contains('-'));
    uid.is_none_or(|uid| *uid == *pod.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::PodRef;
    use tokio::sync::oneshot;

    const UID: &str = "11111111-1111-1111-1111-111111111111";
    const NETNS: &str = "/run/netns/cni-1";

    fn request(operation: Operation, uid: &str) -> CniRequest {
        CniRequest {
            operation,
            pod: PodRef {
                namespace: "weather".into(),
                name: "forecast-1".into(),
                uid: Some(uid.into()),
            },
            container_id: "abc".into(),
            netns: (operation == Operation::Add).then(|| NETNS.into()),
            ips: Vec::new(),
            reply: oneshot::channel().0,
        }
    }

    fn pod(enrollment: Enrollment, netns: &str) -> Workload {
        Workload {
            enrollment,
            netns: Some(netns.into()),
            ..crate::testing::workload("weather", "forecast-1", UID)
        }
    }

    fn add(pod: Option<&Workload>, capture: Capture<'_>, waited: u64) -> Option<Answer> {
        let request = request(Operation::Add, UID);
        decide(&request, pod, capture, Duration::from_secs(waited))
    }

    #[test]
    fn a_pod_of_the_mesh_starts_once_it_is_captured_in_this_very_sandbox() {
        let enrolled = pod(Enrollment::Enrolled, NETNS);
        assert_eq!(add(Some(&enrolled), Capture::Captured, 0), Some(Answer::Captured));
        assert_eq!(add(Some(&enrolled), Capture::NotYet, 9), None);
        let earlier_sandbox = pod(Enrollment::Enrolled, "/run/netns/cni-0");
        assert_eq!(add(Some(&earlier_sandbox), Capture::Captured, 9), None);
        let no_address = pod(Enrollment::NoAddress, NETNS);
        assert_eq!(add(Some(&no_address), Capture::NotYet, 9), None);
    }

    #[test]
    fn a_pod_that_is_not_known_yet_waits() {
        assert_eq!(add(None, Capture::NotYet, 9), None);
        let request = request(Operation::Add, "22222222-2222-2222-2222-222222222222");
        let namesake = pod(Enrollment::NotAsked, NETNS);
        let answer = decide(&request, Some(&namesake), Capture::NotYet, Duration::ZERO);
        assert_eq!(answer, None, "a StatefulSet's pod of yesterday");
    }

    #[test]
    fn a_pod_outside_of_the_mesh_starts_at_once() {
        for enrollment in [
            Enrollment::NotAsked,
            Enrollment::OptedOut,
            Enrollment::SandboxedRuntime,
        ] {
            let answer = add(Some(&pod(enrollment, NETNS)), Capture::NotYet, 0);
            assert!(
                matches!(answer, Some(Answer::NotEnrolled { .. })),
                "{enrollment:?}: {answer:?}"
            );
        }
    }

    #[test]
    fn a_capture_that_fails_has_a_second_to_come_right() {
        let enrolled = pod(Enrollment::Enrolled, NETNS);
        let failed = Capture::Failed("map WORKLOADS is full");
        assert_eq!(add(Some(&enrolled), failed, 0), None);
        let reason = "map WORKLOADS is full".to_owned();
        assert_eq!(add(Some(&enrolled), failed, 1), Some(Answer::Failed { reason }));
    }

    #[test]
    fn a_static_pod_is_known_by_its_name() {
        let request = request(Operation::Add, "d2e3bc2f1d3a4b5c6d7e8f9012345678");
        let mirror = pod(Enrollment::Enrolled, NETNS);
        let answer = decide(&request, Some(&mirror), Capture::Captured, Duration::ZERO);
        assert_eq!(answer, Some(Answer::Captured));
    }

    #[test]
    fn the_end_of_a_pod_is_noted_whatever_is_known() {
        let answer = decide(
            &request(Operation::Del, UID),
            None,
            Capture::NotYet,
            Duration::ZERO,
        );
        assert_eq!(answer, Some(Answer::Captured));
    }
}
