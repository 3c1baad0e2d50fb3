//! A `/proc` that the test makes. Ordinary files play the namespaces: they, too, have a device and an inode.

use super::*;
use crate::testing::TempDir;
use std::os::unix::fs::symlink;

const ONE: &str = "11111111-1111-1111-1111-111111111111";
const TWO: &str = "22222222-2222-2222-2222-222222222222";

struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { dir: TempDir::new() };
        fs::create_dir_all(machine.dir.0.join("root/run/netns")).unwrap();
        fs::create_dir_all(machine.dir.0.join("unpinned")).unwrap();
        let host = machine.namespace("unpinned/host");
        machine.process(1, "0::/init.scope", &host, 1);
        symlink(machine.dir.0.join("proc/1"), machine.dir.0.join("proc/self")).unwrap();
        machine
    }

    fn namespace(&self, path: &str) -> PathBuf {
        let path = self.dir.0.join(path);
        fs::write(&path, path.to_str().unwrap()).unwrap();
        path
    }

    fn pinned(&self, name: &str) -> PathBuf {
        self.namespace(&format!("root/run/netns/{name}"))
    }

    fn process(&self, pid: u32, cgroup: &str, netns: &Path, started: u64) {
        let dir = self.dir.0.join("proc").join(pid.to_string());
        fs::create_dir_all(dir.join("ns")).unwrap();
        fs::write(dir.join("cgroup"), format!("{cgroup}\n")).unwrap();
        // The name plays tricks.
        let stat = format!("{pid} (a) S 7 (b) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {started} 1 1");
        fs::write(dir.join("stat"), stat).unwrap();
        symlink(netns, dir.join("ns/net")).unwrap();
    }

    fn scanner(&self) -> Scanner {
        let files = NetnsFiles::new(&self.dir.0.join("root"));
        Scanner::new(&self.dir.0.join("proc"), Arc::new(files))
    }
}

fn container(uid: &str) -> String {
    format!("0::/kubepods/besteffort/pod{uid}/c0ffee")
}

fn scan(scanner: &mut Scanner, uids: &[&str]) -> Found {
    let uids: Vec<Arc<str>> = uids.iter().map(|uid| Arc::from(*uid)).collect();
    scanner.scan(&uids).unwrap()
}

#[test]
fn each_pod_gets_the_pinned_file_of_its_own_namespace() {
    let machine = Machine::new();
    let (one, two) = (machine.pinned("cni-one"), machine.pinned("cni-two"));
    machine.process(100, &container(ONE), &one, 10);
    machine.process(101, &container(ONE), &one, 11);
    machine.process(200, &container(TWO), &two, 12);
    let missing = "33333333-3333-3333-3333-333333333333";
    let found = scan(&mut machine.scanner(), &[ONE, TWO, missing]);
    assert_eq!(found[ONE].as_deref(), Ok(one.to_str().unwrap()));
    assert_eq!(found[TWO].as_deref(), Ok(two.to_str().unwrap()));
    assert_eq!(found[missing], Err(Unfound::NoProcess));
}

#[test]
fn the_nodes_own_namespace_is_never_a_pods() {
    let machine = Machine::new();
    let host = machine.dir.0.join("unpinned/host");
    let pod = machine.pinned("cni-two");
    machine.process(100, &container(ONE), &host, 10);
    // A monitor of the runtime beside a pod with a network of its own, and one whose pod has none any more.
    machine.process(200, &format!("0::/kubepods/pod{TWO}"), &host, 9);
    machine.process(201, &container(TWO), &pod, 10);
    let three = "33333333-3333-3333-3333-333333333333";
    machine.process(300, &format!("0::/kubepods/pod{three}"), &host, 9);
    let found = scan(&mut machine.scanner(), &[ONE, TWO, three]);
    assert_eq!(found[ONE], Err(Unfound::HostNetwork));
    assert_eq!(found[TWO].as_deref(), Ok(pod.to_str().unwrap()));
    assert_eq!(found[three], Err(Unfound::NoProcess));
}

#[test]
fn namespaces_that_a_container_makes_for_itself_are_not_the_pods() {
    let machine = Machine::new();
    let nested = machine.namespace("unpinned/nested");
    machine.process(90, &container(ONE), &nested, 5);
    let pod = machine.pinned("cni-one");
    machine.process(100, &container(ONE), &pod, 10);
    let found = scan(&mut machine.scanner(), &[ONE]);
    assert_eq!(found[ONE].as_deref(), Ok(pod.to_str().unwrap()), "the pinned one");

    let machine = Machine::new();
    let (own, nested) = (
        machine.namespace("unpinned/own"),
        machine.namespace("unpinned/nested"),
    );
    machine.process(90, &container(TWO), &nested, 20);
    machine.process(100, &container(TWO), &own, 10);
    let mut scanner = machine.scanner();
    let found = scan(&mut scanner, &[TWO]);
    let path = found[TWO].clone().unwrap();
    let text = fs::read_to_string(&*path).unwrap();
    assert_eq!(text, own.to_str().unwrap(), "the oldest process's");
}

#[test]
fn a_namespace_without_a_file_keeps_one_path_until_the_pod_is_forgotten() {
    let machine = Machine::new();
    let netns = machine.namespace("unpinned/one");
    machine.process(100, &container(ONE), &netns, 10);
    let mut scanner = machine.scanner();
    let first = scan(&mut scanner, &[ONE])[ONE].clone().unwrap();
    assert!(first.starts_with("/proc/self/fd/"));
    assert_eq!(netns_id(Path::new(&*first)).unwrap(), netns_id(&netns).unwrap());
    // Others are looked for meanwhile; the first process is replaced by another in the same namespace.
    scan(&mut scanner, &[TWO]);
    fs::remove_dir_all(machine.dir.0.join("proc/100")).unwrap();
    machine.process(101, &container(ONE), &netns, 20);
    assert_eq!(scan(&mut scanner, &[ONE])[ONE].as_deref(), Ok(&*first));
    scanner.forget(ONE);
    assert!(scanner.held.is_empty());
}

#[test]
fn processes_that_end_while_they_are_looked_at_hide_nothing() {
    let machine = Machine::new();
    let pod = machine.pinned("cni-one");
    machine.process(100, &container(ONE), &pod, 10);
    machine.process(101, &container(ONE), Path::new("/nowhere"), 10);
    fs::create_dir_all(machine.dir.0.join("proc/102")).unwrap();
    let found = scan(&mut machine.scanner(), &[ONE]);
    assert_eq!(found[ONE].as_deref(), Ok(pod.to_str().unwrap()));
}

#[test]
fn a_namespace_that_may_not_be_looked_at_is_said() {
    let machine = Machine::new();
    // A file is no directory: an error other than "not found", whoever runs the test.
    let file = machine.namespace("unpinned/file");
    machine.process(100, &container(ONE), &file.join("net"), 10);
    let found = scan(&mut machine.scanner(), &[ONE]);
    let Err(Unfound::Unreadable { path, reason }) = &found[ONE] else {
        panic!("{found:?}");
    };
    assert!(path.ends_with("100/ns/net"));
    assert!(reason.contains("Not a directory"), "{reason}");
}

#[test]
fn two_hundred_pods_are_found_in_one_quick_pass() {
    let machine = Machine::new();
    let uids: Vec<String> = (0..200)
        .map(|pod| format!("{pod:08x}-0000-0000-0000-000000000000"))
        .collect();
    for (pod, uid) in uids.iter().enumerate() {
        let netns = machine.pinned(&format!("cni-{pod}"));
        for process in 0..5 {
            let pid = u32::try_from(1000 + pod * 5 + process).unwrap();
            machine.process(pid, &container(uid), &netns, 10);
        }
    }
    let uids: Vec<&str> = uids.iter().map(String::as_str).collect();
    let mut scanner = machine.scanner();
    let start = std::time::Instant::now();
    let found = scan(&mut scanner, &uids);
    let took = start.elapsed();
    assert!(found.values().all(Result::is_ok));
    println!("200 pods, 1,000 processes: {took:?}");
    // Far above what it takes: a pass per pod would take longer.
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
}

#[test]
fn this_machines_own_proc_can_be_scanned() {
    let mut scanner = Scanner::new(
        Path::new("/proc"),
        Arc::new(NetnsFiles::new(Path::new("/proc/1/root"))),
    );
    let found = scan(&mut scanner, &[ONE]);
    assert_eq!(found[ONE], Err(Unfound::NoProcess));
}
