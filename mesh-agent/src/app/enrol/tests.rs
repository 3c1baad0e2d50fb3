//! The life of a pod's sandbox, with a `/proc` that the test makes.

use super::*;
use crate::cni::{Answer, PodRef};
use crate::sys::NetnsFiles;
use crate::testing::{TempDir, workload};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use tokio::sync::oneshot;

const UID: &str = "11111111-1111-1111-1111-111111111111";

struct Bench {
    dir: TempDir,
    enrol: Enrol,
    snapshot: Snapshot,
}

impl Bench {
    fn new(pods: Vec<Workload>) -> Self {
        let dir = TempDir::new();
        fs::create_dir_all(dir.0.join("proc")).unwrap();
        fs::create_dir_all(dir.0.join("root/run/netns")).unwrap();
        let files = NetnsFiles::new(&dir.0.join("root"));
        let scanner = Scanner::new(&dir.0.join("proc"), Arc::new(files));
        let snapshot = Snapshot {
            workloads: pods.into_iter().map(Arc::new).collect(),
            ..Snapshot::default()
        };
        Self {
            dir,
            enrol: Enrol::new("n1".into(), scanner),
            snapshot,
        }
    }

    /// A process of the pod, in a pinned namespace of this name.
    fn runs(&self, pid: u32, netns: &str) -> PathBuf {
        let pin = self.dir.0.join("root/run/netns").join(netns);
        fs::write(&pin, netns).unwrap();
        let dir = self.dir.0.join("proc").join(pid.to_string());
        fs::create_dir_all(dir.join("ns")).unwrap();
        fs::write(
            dir.join("cgroup"),
            format!("0::/kubepods/besteffort/pod{UID}/c0ffee\n"),
        )
        .unwrap();
        symlink(&pin, dir.join("ns/net")).unwrap();
        pin
    }

    fn ends(&self, pid: u32) {
        fs::remove_dir_all(self.dir.0.join("proc").join(pid.to_string())).unwrap();
    }

    fn facts(&mut self) -> Vec<SandboxFact> {
        self.enrol.facts(&self.snapshot).unwrap()
    }

    fn pod(&mut self) -> &mut Workload {
        Arc::make_mut(&mut self.snapshot.workloads[0])
    }

    fn add(&mut self, uid: &str, netns: &str) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let request = CniRequest {
            operation: Operation::Add,
            pod: PodRef {
                namespace: "weather".into(),
                name: "forecast-1".into(),
                uid: Some(uid.into()),
            },
            container_id: netns.into(),
            netns: Some(netns.into()),
            ips: vec![ip(7)],
            reply,
        };
        self.enrol.take(request, Instant::now());
        answer
    }

    fn settle(&mut self, capture: Capture<'static>) {
        self.enrol.settle(&self.snapshot, Instant::now(), |_| capture);
    }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 244, 1, last])
}

fn forecast() -> Workload {
    workload("weather", "forecast-1", UID)
}

#[test]
fn a_new_pod_is_told_to_the_state_and_starts_once_it_is_captured() {
    let mut bench = Bench::new(Vec::new());
    let mut answer = bench.add(UID, "/run/netns/cni-1");
    assert_eq!(bench.facts(), [], "the watch has not shown the pod yet");
    bench.settle(Capture::NotYet);

    bench.snapshot.workloads.push(Arc::new(forecast()));
    bench.pod().enrollment = Enrollment::NoAddress;
    let fact = SandboxFact {
        uid: UID.into(),
        netns: Some("/run/netns/cni-1".into()),
        ips: vec![ip(7)],
    };
    assert_eq!(bench.facts(), [fact]);
    bench.settle(Capture::NotYet);
    assert!(answer.try_recv().is_err() && bench.enrol.has_waiting());

    // The state has taken the fact.
    bench.pod().enrollment = Enrollment::Enrolled;
    bench.pod().netns = Some("/run/netns/cni-1".into());
    bench.pod().ips = vec![ip(7)];
    assert_eq!(bench.facts(), [], "a fact is told once");
    bench.settle(Capture::Captured);
    assert_eq!(answer.try_recv().unwrap(), Answer::Captured);
}

#[test]
fn the_sandbox_of_a_namesake_is_not_its_predecessors() {
    let mut bench = Bench::new(vec![forecast()]);
    let mut answer = bench.add("22222222-2222-2222-2222-222222222222", "/run/netns/cni-2");
    assert_eq!(bench.facts(), []);
    bench.settle(Capture::Captured);
    assert!(answer.try_recv().is_err());
}

#[test]
fn a_running_pod_is_found_and_forgotten_when_it_is_gone() {
    let mut bench = Bench::new(vec![forecast()]);
    assert_eq!(bench.facts(), []);
    assert!(bench.enrol.looks_for_pods());
    assert_eq!(bench.enrol.unfound(UID), Some(&Unfound::NoProcess));
    let pin = bench.runs(100, "cni-1");
    let facts = bench.facts();
    assert_eq!(facts[0].netns.as_deref(), pin.to_str());
    assert!(!bench.enrol.looks_for_pods());
    bench.snapshot.workloads.clear();
    let gone = SandboxFact {
        uid: UID.into(),
        netns: None,
        ips: Vec::new(),
    };
    assert_eq!(bench.facts(), [gone]);
    assert_eq!(bench.facts(), []);
}

#[test]
fn a_sandbox_that_was_replaced_behind_our_back_is_found() {
    let mut bench = Bench::new(vec![forecast()]);
    bench.runs(100, "cni-1");
    assert_eq!(bench.facts().len(), 1);
    // The status shows an address only now: the same sandbox.
    bench.pod().ips = vec![ip(7)];
    assert_eq!(bench.facts(), []);
    bench.ends(100);
    let pin = bench.runs(200, "cni-2");
    bench.pod().ips = vec![ip(8)];
    assert_eq!(bench.facts()[0].netns.as_deref(), pin.to_str());
    assert_eq!(bench.facts(), []);
}

#[test]
fn pods_of_other_nodes_and_outside_of_the_mesh_are_not_looked_for() {
    let elsewhere = Workload {
        node: "n2".into(),
        ..forecast()
    };
    let outside = Workload {
        enrollment: Enrollment::NotAsked,
        ..forecast()
    };
    for pod in [elsewhere, outside] {
        let mut bench = Bench::new(vec![pod]);
        bench.runs(100, "cni-1");
        assert_eq!(bench.facts(), []);
        assert!(!bench.enrol.looks_for_pods());
    }
}
