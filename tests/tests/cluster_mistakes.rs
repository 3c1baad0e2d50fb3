//! Mistakes that people make: two agents on a node, files and definitions that nobody can read, an address that another
//! pod has now.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{CLIENT, Cluster, ECHO};
use mesh_tests::cluster_app::{App, install, statuses};
use mesh_tests::eventually;
use mesh_tests::release::Release;
use serde_json::{Value, json};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// What `heddle check` says, as JSON.
fn check(release: &Release) -> String {
    let output = release.check().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_second_agent_on_a_node_refuses_to_start_and_the_first_goes_on() {
    let cluster = Cluster::current().unwrap();
    let (app, release) = App::in_mesh(&cluster, &[]);
    app.settle(&release);
    let get = ["-n", &release.space.name, "get", "daemonset", "heddle-agent"];
    let mut spec = cluster.json(&get).unwrap()["spec"]["template"]["spec"].clone();
    spec["nodeName"] = json!(app.space.pods("load").unwrap()[0].node);
    spec["restartPolicy"] = json!("Never");
    let container = &mut spec["containers"][0];
    for arg in container["args"].as_array_mut().unwrap() {
        if arg == "--takeover=true" {
            *arg = json!("--takeover=false");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        container.as_object_mut().unwrap().remove(probe);
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "second"}, "spec": spec});
    release.space.apply(&pod.to_string()).unwrap();
    let words = eventually("its end", MINUTE, || {
        let get = ["-n", &release.space.name, "get", "pod", "second"];
        let state = cluster.json(&get).ok()?["status"]["containerStatuses"][0]["state"].clone();
        state["terminated"]["message"].as_str().map(str::to_owned)
    })
    .unwrap();
    assert!(words.contains("agent.lock"), "{words}");
    app.nothing_lost("second agent");
    assert_eq!(app.captured(&release), app.pods().len());
}

/// Does something at its end.
struct Mended<F: FnMut()>(F);

impl<F: FnMut()> Drop for Mended<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_cni_configuration_that_is_no_json_is_named_and_the_nodes_pods_go_on() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        eprintln!("NOT RUN: this writes into a node, which only those of `cargo xtask cluster` allow");
        return;
    }
    let (app, release) = App::in_mesh(&cluster, &[]);
    app.settle(&release);
    let node = app.space.pods("load").unwrap()[0].node.clone();
    let conflist = "/etc/cni/net.d/10-pods.conflist";
    let sh = |script: &str| cluster.node_exec(&node, &["sh", "-c", script]).unwrap();
    let before = sh(&format!("cat {conflist}"));
    sh(&format!(
        "cp {conflist} /tmp/conflist-kept && echo '{{\"plugins\": [' >{conflist}"
    ));
    // Also if something fails before: the suites after this one have the same node.
    let mended = Mended(|| {
        let mend = format!("cat /tmp/conflist-kept >{conflist}; rm /tmp/conflist-kept");
        let _ = cluster.node_exec(&node, &["sh", "-c", &mend]);
    });
    let named = eventually("the file to be named", MINUTE, || {
        let said = check(&release);
        (said.contains(conflist) && said.contains("is not JSON")).then_some(())
    });
    app.nothing_lost("broken conflist");
    let unharmed = sh(&format!("cat {conflist}"));
    drop(mended);
    named.unwrap();
    assert!(
        unharmed.starts_with("{\"plugins\": ["),
        "somebody mended it: {unharmed}"
    );
    eventually("the plug-in to be content", MINUTE, || {
        let statuses = statuses(&release);
        let content = |status: &Value| {
            status["cni"]
                .as_str()
                .is_some_and(|cni| cni.starts_with("Installed"))
        };
        (statuses.len() == 2 && statuses.iter().all(content)).then_some(())
    })
    .unwrap();
    assert_eq!(sh(&format!("cat {conflist}")), before);
}

#[test]
fn a_crd_of_an_unknown_version_is_named_and_the_mesh_goes_on() {
    let cluster = Cluster::current().unwrap();
    let crd = "peerauthentications.security.istio.io";
    let there = cluster.kubectl(&["get", "crd", crd]).is_ok();
    if there && !cluster.is_own() {
        eprintln!("NOT RUN: this cluster has {crd} already");
        return;
    }
    if there {
        cluster.kubectl(&["delete", "crd", crd]).unwrap();
    }
    let (app, release) = App::in_mesh(&cluster, &["--set", "crds.istio=false"]);
    app.settle(&release);
    let definition = format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {crd}}}\nspec:\n  \
         group: security.istio.io\n  scope: Namespaced\n  names: {{kind: PeerAuthentication, plural: peerauthentications}}\n  versions:\n  \
         - {{name: v9, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object}}}}}}\n"
    );
    cluster.apply(&definition).unwrap();
    let named = eventually("the CRD to be named", MINUTE, || {
        let said = check(&release);
        (said.contains(crd) && said.contains("v9 is served")).then_some(())
    });
    app.nothing_lost("unknown CRD");
    cluster.kubectl(&["delete", "crd", crd]).unwrap();
    named.unwrap();
}

#[test]
fn a_pod_that_gets_anothers_address_at_once_is_itself() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        eprintln!(
            "NOT RUN: this tells a node's IPAM which address is next, which only those of `cargo xtask cluster` allow"
        );
        return;
    }
    let release = install(&cluster, &[]);
    let space = cluster.namespace("reuse").unwrap();
    let label = ["label", "namespace", &space.name, "heddle.io/mesh=enabled"];
    cluster.kubectl(&label).unwrap();
    let nodes = cluster.ready_nodes().unwrap();
    let account =
        |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let server = |name: &str| {
        let container = json!({"name": "c", "image": ECHO, "imagePullPolicy": "IfNotPresent"});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "reuse"}},
            "spec": {"nodeName": nodes[0], "serviceAccountName": name, "terminationGracePeriodSeconds": 0, "containers": [container]}})
    };
    let client = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "labels": {"app": "client"}},
        "spec": {"nodeName": nodes[1], "terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": CLIENT, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"]}]}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "reuse"},
        "spec": {"selector": {"app": "reuse"}, "ports": [{"name": "http", "port": 8080}]}});
    let apply = |objects: &[Value]| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        space.apply(&list.to_string()).unwrap();
    };
    let ready = |pod: &str| {
        let object = format!("pod/{pod}");
        cluster
            .wait(&space.name, &object, "condition=Ready", MINUTE)
            .unwrap();
    };
    apply(&[
        account("first"),
        account("second"),
        client,
        service,
        server("first"),
    ]);
    ready("client");
    ready("first");
    let found = cluster
        .json(&["-n", &space.name, "get", "service", "reuse"])
        .unwrap();
    let url = format!("http://{}:8080/", found["spec"]["clusterIP"].as_str().unwrap());
    let answered_by = || {
        let ask = ["curl", "-sS", "-m", "4", &url];
        let answer = space
            .exec("client", &ask)
            .unwrap_or_else(|error| format!("{error:#}"));
        let json: Value = serde_json::from_str(&answer).unwrap_or_default();
        json["hostname"].as_str().map_or(answer, str::to_owned)
    };
    eventually("the first", MINUTE, || (answered_by() == "first").then_some(())).unwrap();
    let address = space.pods("reuse").unwrap()[0].ip.clone();

    // The node's IPAM counts up from here.
    let (net, last) = address.rsplit_once('.').unwrap();
    let before = format!("{net}.{}", last.parse::<u8>().unwrap() - 1);
    let delete = ["-n", &space.name, "delete", "pod", "first"];
    cluster.kubectl(&delete).unwrap();
    // The object goes at once, what the node holds for it a moment later.
    let released = format!("! test -e /var/lib/cni/networks/pods/{address}");
    eventually("the address to be free", MINUTE, || {
        cluster.node_exec(&nodes[0], &["sh", "-c", &released]).ok()
    })
    .unwrap();
    let next = format!("printf %s {before} >/var/lib/cni/networks/pods/last_reserved_ip.0");
    cluster.node_exec(&nodes[0], &["sh", "-c", &next]).unwrap();
    apply(&[server("second")]);
    ready("second");
    let now = space.pods("reuse").unwrap()[0].ip.clone();
    assert_eq!(now, address, "another address: nothing is proven");
    eventually("the second, under its own name", MINUTE, || {
        (answered_by() == "second").then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", answered_by()));
    let name = format!("{}/second", space.name);
    let statuses = statuses(&release);
    let pods = statuses
        .iter()
        .flat_map(|s| s["pods"].as_array().into_iter().flatten());
    let holders: Vec<_> = pods
        .filter(|pod| pod["ips"][0] == address.as_str() && pod["captured"] == true)
        .map(|pod| {
            (
                pod["pod"].clone(),
                pod["identity"]
                    .as_str()
                    .unwrap()
                    .rsplit('/')
                    .next()
                    .unwrap()
                    .to_owned(),
            )
        })
        .collect();
    assert_eq!(holders, [(json!(name), "second".to_owned())]);
}
