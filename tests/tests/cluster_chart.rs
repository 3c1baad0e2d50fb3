//! The chart's life on a real API server: what it takes, what survives upgrades and rollbacks, what an uninstall leaves.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::Cluster;
use mesh_tests::release::{Release, chart};
use std::path::PathBuf;

/// Starts and does nothing: objects are under test here, not what runs.
const IDLE: &[&str] = &[
    "--set",
    "image.repository=k8s.test/pause",
    "--set-string",
    "image.tag=1",
];

/// Kinds that only a Prometheus operator knows.
const NO_OPERATOR: &[&str] = &[
    "--set",
    "monitoring.podMonitor.enabled=false,monitoring.prometheusRule.enabled=false",
];

/// The webhook's caBundle.
fn ca_bundle(cluster: &Cluster) -> Option<String> {
    let kind = "validatingwebhookconfiguration";
    let object = cluster.json(&["get", kind, "heddle-validator"]).unwrap();
    let bundle = &object["webhooks"][0]["clientConfig"]["caBundle"];
    bundle.as_str().map(str::to_owned)
}

/// A release of idle pods, with more arguments for helm.
fn install(args: &[&str]) -> Release {
    Release::install(&Cluster::current().unwrap(), &[IDLE, args].concat()).unwrap()
}

fn upgrade(release: &Release, args: &[&str]) {
    release.upgrade(&[IDLE, args].concat()).unwrap();
}

#[test]
fn the_api_server_takes_every_object_of_every_values_file_field_by_field() {
    let cluster = Cluster::current().unwrap();
    let space = cluster.namespace("chart").unwrap();
    let chart = chart();
    let mut files: Vec<PathBuf> = std::fs::read_dir(chart.join("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.push(chart.join("values.yaml"));
    for file in files {
        let mut args = vec!["template", "heddle", chart.to_str().unwrap(), "-n", &space.name];
        args.extend([
            "--kube-version",
            "1.34.0",
            "--include-crds",
            "-f",
            file.to_str().unwrap(),
        ]);
        args.extend(NO_OPERATOR);
        let rendered = std::env::temp_dir().join(format!("{}.yaml", space.name));
        std::fs::write(&rendered, cluster.helm(&args).unwrap()).unwrap();
        let path = rendered.to_str().unwrap();
        // Strict: a misspelt field is an error, not dropped.
        let taken = cluster.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", path]);
        std::fs::remove_file(&rendered).unwrap();
        taken.unwrap_or_else(|error| panic!("{}: {error:#}", file.display()));
    }
}

#[test]
fn the_webhooks_ca_bundle_survives_upgrade_and_rollback() {
    let release = install(&[]);
    assert_eq!(ca_bundle(&release.cluster), None);
    let config = release.cluster.json(&["config", "view", "--raw"]).unwrap();
    let bundle = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str();
    let bundle = bundle
        .expect("a kubeconfig with its certificates inside")
        .to_owned();
    let patch =
        format!(r#"[{{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "{bundle}"}}]"#);
    let hook = [
        "validatingwebhookconfiguration",
        "heddle-validator",
        "--type=json",
        "-p",
        &patch,
    ];
    release
        .cluster
        .kubectl(&[&["patch"], &hook[..]].concat())
        .unwrap();
    assert_eq!(ca_bundle(&release.cluster).as_ref(), Some(&bundle));
    upgrade(&release, &["--set", "agent.drainSeconds=60"]);
    assert_eq!(
        ca_bundle(&release.cluster).as_ref(),
        Some(&bundle),
        "after an upgrade"
    );
    release.rollback(1).unwrap();
    assert_eq!(
        ca_bundle(&release.cluster).as_ref(),
        Some(&bundle),
        "after a rollback to the first revision"
    );
}

#[test]
fn an_upgrade_changes_what_was_set_and_a_rollback_takes_it_back() {
    let release = install(&[]);
    let drains = || {
        let agent = ["-n", &release.space.name, "get", "daemonset", "heddle-agent"];
        let object = release.cluster.json(&agent).unwrap();
        let args = &object["spec"]["template"]["spec"]["containers"][0]["args"];
        let mut args = args.as_array().unwrap().iter().filter_map(|arg| arg.as_str());
        args.find_map(|arg| arg.strip_prefix("--drain-seconds="))
            .unwrap()
            .to_owned()
    };
    assert_eq!(drains(), "30");
    upgrade(&release, &["--set", "agent.drainSeconds=60"]);
    assert_eq!(drains(), "60");
    release.rollback(1).unwrap();
    assert_eq!(drains(), "30");
}

#[test]
fn an_uninstall_leaves_no_object_but_crds() {
    let release = install(&["--set", "networkPolicy.enabled=true"]);
    let ours = "app.kubernetes.io/part-of=heddle";
    let wide = "clusterroles,clusterrolebindings,validatingwebhookconfigurations";
    let narrow =
        "all,configmaps,secrets,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies";
    let count = |kinds: &str| {
        let list = ["-n", &release.space.name, "get", kinds, "-l", ours, "-o", "name"];
        let names = release.cluster.kubectl(&list).unwrap();
        names.lines().filter(|name| !name.starts_with("pod/")).count()
    };
    assert!(count(wide) >= 5 && count(narrow) >= 10);
    release.uninstall().unwrap();
    assert_eq!((count(wide), count(narrow)), (0, 0));
}

#[test]
fn crds_of_others_are_neither_taken_over_nor_removed() {
    let name = "virtualservices.networking.istio.io";
    let cluster = Cluster::current().unwrap();
    if cluster.kubectl(&["get", "crd", name]).is_ok() {
        eprintln!("NOT RUN: this cluster has {name} already");
        return;
    }
    cluster.apply(&somebodys_crd(name)).unwrap();
    let release = install(&["--set", "crds.istio=true"]);
    let owner = |name: &str| {
        let crd = cluster.json(&["get", "crd", name]).unwrap();
        crd["metadata"]["annotations"]["meta.helm.sh/release-name"]
            .as_str()
            .map(str::to_owned)
    };
    let other = "destinationrules.networking.istio.io";
    assert_eq!(owner(name), None);
    assert_eq!(owner(other).as_deref(), Some("heddle"));
    upgrade(&release, &["--set", "crds.istio=true"]);
    assert_eq!(
        owner(other).as_deref(),
        Some("heddle"),
        "an upgrade keeps what the release made"
    );
    release.uninstall().unwrap();
    for name in [name, other] {
        cluster.kubectl(&["delete", "crd", name]).unwrap();
    }
}

fn somebodys_crd(name: &str) -> String {
    format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {name}}}\nspec:\n  \
         group: networking.istio.io\n  scope: Namespaced\n  names: {{kind: VirtualService, plural: virtualservices}}\n  versions:\n  \
         - {{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object}}}}}}\n"
    )
}
