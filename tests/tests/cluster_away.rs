//! What the mesh does while others are away: the API server, the CA, and an etcd that comes back as it was earlier.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{CLIENT, Cluster, ECHO, image};
use mesh_tests::cluster_app::{App, install, statuses};
use mesh_tests::eventually;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

/// For how long the API server stays away; `HEDDLE_TEST_AWAY_SECONDS=600` is what the mesh is meant to survive.
fn away() -> Duration {
    let seconds = std::env::var("HEDDLE_TEST_AWAY_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(25))
}

#[test]
fn endpoints_that_die_while_the_api_server_is_away_are_left_by_connect_failures() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        eprintln!("NOT RUN: needs a cluster of `cargo xtask cluster`");
        return;
    }
    let app = App::open(&cluster);
    let release = install(&cluster, &[]);
    app.label("heddle.io/mesh=enabled");
    app.await_captured(&release, SOON);
    app.nothing_lost("enrolment");

    let load_on = app.space.pods("load").unwrap()[0].node.clone();
    let echoes = app.space.pods("echo").unwrap();
    let doomed = echoes
        .iter()
        .find(|pod| pod.node != load_on)
        .unwrap()
        .node
        .clone();
    // Without its API server nothing can be asked of a pod: the load's files are read on its node.
    let failed = |node: &str| {
        let read = "for p in $(pgrep -f 'while :'); do cat /proc/$p/root/tmp/failed 2>/dev/null; done | sort -u; true";
        cluster.node_exec(node, &["sh", "-c", read]).unwrap()
    };
    let began = Instant::now();
    cluster.stop("cp", "kube-apiserver").unwrap();
    // Nobody starts them again.
    cluster.stop(&doomed, "kubelet").unwrap();
    cluster
        .node_exec(&doomed, &["sh", "-c", "kill -9 $(pgrep -x echo)"])
        .unwrap();
    // What was under way is lost; what comes later is not.
    std::thread::sleep(Duration::from_secs(2));
    let at_first = failed(&load_on);
    std::thread::sleep(away().saturating_sub(began.elapsed()));
    let at_last = failed(&load_on);
    cluster.start(&doomed, "kubelet").unwrap();
    cluster.start_api_server().unwrap();
    assert_eq!(at_last, at_first, "lost although two endpoints of four live");
    assert!(
        at_first.lines().count() <= 5,
        "lost by the deaths alone: {at_first}"
    );
    let (asked, _) = app.load();
    assert!(asked > 100, "{asked} requests");

    app.await_cluster();
    app.forgive();
    app.nothing_lost("API server away");
    app.await_captured(&release, MINUTE);
}

#[test]
fn a_ca_that_is_away_through_a_renewal_costs_nothing_and_is_asked_again() {
    let cluster = Cluster::current().unwrap();
    let app = App::open(&cluster);
    let release = install(&cluster, &["--set", "ca.certTtlSeconds=100"]);
    app.label("heddle.io/mesh=enabled");
    app.await_captured(&release, SOON);
    app.forgive();
    let certificates = || -> Vec<Value> {
        let statuses = statuses(&release);
        let all = statuses
            .iter()
            .filter_map(|status| status["certificates"].as_array())
            .flatten();
        let all = all.filter(|c| {
            c["identity"]
                .as_str()
                .is_some_and(|id| id.contains(&app.space.name))
        });
        all.cloned().collect()
    };
    let serials = || -> BTreeSet<String> { certificates().iter().map(|c| c["serial"].to_string()).collect() };
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        let target = ["-n", &release.space.name, "scale", "deployment/heddle-controller"];
        cluster.kubectl(&[&target[..], &[&replicas]].concat()).unwrap();
    };
    // Fresh ones, so that what follows has its time.
    let old = serials();
    eventually("new certificates", MINUTE * 2, || {
        let now = serials();
        (!old.is_empty() && now.len() == old.len() && now.is_disjoint(&old)).then_some(())
    })
    .unwrap();
    let fresh = serials();
    scale("0");
    eventually("a renewal that fails", MINUTE * 2, || {
        let all = certificates();
        let overdue = |c: &Value| c["state"] != "Valid" && !c["last_error"].is_null();
        (all.len() == fresh.len() && all.iter().all(overdue)).then_some(())
    })
    .unwrap();
    assert_eq!(serials(), fresh, "the certificates that there were are in use");
    app.nothing_lost("CA away");
    scale("2");
    eventually("renewed certificates", MINUTE, || {
        let now = serials();
        (now.len() == fresh.len() && now.is_disjoint(&fresh)).then_some(())
    })
    .unwrap();
    app.nothing_lost("CA back");
}

/// An etcd restored from a backup has older versions of objects under older numbers: watches that go on from newer ones
/// are refused, and lists must be read again.
#[test]
fn after_an_etcd_was_restored_what_is_gone_goes_and_what_is_there_stays() {
    let work = own_place("restored");
    let cluster = Cluster::up(&work, &["--nodes", "1"]).unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| restored(&cluster)));
    cluster.down().unwrap();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    std::fs::remove_dir_all(work).unwrap();
}

fn restored(cluster: &Cluster) {
    cluster.load_image(&archive()).unwrap();
    let space = cluster.namespace("app").unwrap();
    let container = |image: &str, command: Value| json!({"name": "c", "image": image, "imagePullPolicy": "IfNotPresent", "command": command});
    let pod = |name: &str, container: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
    };
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": "echo"}, "ports": [{"name": "http", "port": 8080}]}})
    };
    let apply = |objects: &[Value]| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        space.apply(&list.to_string()).unwrap();
    };
    apply(&[
        pod("echo", container(ECHO, json!(["/echo", "serve"]))),
        pod("client", container(CLIENT, json!(["sleep", "infinity"]))),
        service("stays"),
        service("comes-back"),
    ]);
    let release = install(cluster, &[]);
    let label = ["label", "namespace", &space.name, "heddle.io/mesh=enabled"];
    cluster.kubectl(&label).unwrap();
    let captured = || {
        let statuses = statuses(&release);
        let pods = statuses
            .iter()
            .flat_map(|s| s["pods"].as_array().into_iter().flatten());
        pods.filter(|pod| pod["captured"] == true).count()
    };
    eventually("both pods", MINUTE, || (captured() == 2).then_some(())).unwrap();
    let address = |name: &str| {
        let service = cluster
            .json(&["-n", &space.name, "get", "service", name])
            .unwrap();
        service["spec"]["clusterIP"].as_str().unwrap().to_owned()
    };
    let answers = |ip: &str| {
        let url = format!("http://{ip}:8080/");
        let curl = ["curl", "-sf", "-m", "2", url.as_str()];
        let said = space.exec("client", &curl);
        said.is_ok_and(|answer| answer.contains("X-Request-Id"))
    };
    let (stays, comes_back) = (address("stays"), address("comes-back"));
    eventually("both services", SOON, || {
        (answers(&stays) && answers(&comes_back)).then_some(())
    })
    .unwrap();

    let sh = |script: &str| cluster.node_exec("cp", &["sh", "-c", script]).unwrap();
    let control = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
    let stop = || {
        control
            .iter()
            .for_each(|service| cluster.stop("cp", service).unwrap());
        cluster.stop("cp", "etcd").unwrap();
    };
    let start = || {
        cluster.start("cp", "etcd").unwrap();
        cluster.start_api_server().unwrap();
    };
    stop();
    sh("rm -rf /run/backup && cp -a /run/etcd /run/backup");
    start();
    apply(&[service("goes")]);
    let goes = address("goes");
    cluster
        .kubectl(&["-n", &space.name, "delete", "service", "comes-back"])
        .unwrap();
    eventually("the later state", MINUTE, || {
        (answers(&goes) && !answers(&comes_back)).then_some(())
    })
    .unwrap();

    stop();
    sh("rm -rf /run/etcd && mv /run/backup /run/etcd");
    start();
    cluster.stop("n1", "kubelet").unwrap();
    cluster.start("n1", "kubelet").unwrap();
    let until = Instant::now() + Duration::from_secs(150);
    while !(answers(&comes_back) && !answers(&goes)) {
        assert!(answers(&stays), "a service that was there all the time is gone");
        assert_eq!(captured(), 2, "a pod that was there all the time is gone");
        assert!(
            Instant::now() < until,
            "the agents do not follow the restored objects"
        );
    }
    assert!(answers(&stays));
    assert_eq!(captured(), 2);
}

fn own_place(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target")
        .join(format!("cluster-{name}"));
    std::fs::create_dir_all(&dir).unwrap();
    dir.canonicalize().unwrap()
}

/// The image of `cargo xtask image`, as a file.
fn archive() -> PathBuf {
    let tag = image().rsplit_once(':').unwrap().1.to_owned();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image");
    let files = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let prefix = format!("heddle-{tag}-");
    let wanted = |file: &PathBuf| {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        name.starts_with(&prefix) && name.ends_with(".tar")
    };
    let found = files.into_iter().find(wanted);
    found.expect("an image of `cargo xtask image`")
}
