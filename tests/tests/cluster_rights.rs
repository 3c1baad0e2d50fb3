//! Rights that are missing: each is named, and nothing of what runs is harmed meanwhile.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::Cluster;
use mesh_tests::cluster_app::{App, install, statuses};
use mesh_tests::eventually;
use mesh_tests::release::{Release, marks_of};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

/// What `heddle check` says is wrong, one line each.
fn wrong(release: &Release) -> Vec<String> {
    let output = release.check().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    let lacking = answer["features"].as_array().unwrap().iter();
    let lacking = lacking.filter(|feature| feature["present"] == false);
    lacking
        .map(|feature| format!("{}: {}", feature["feature"], feature["reason"]))
        .collect()
}

fn strings(value: &Value) -> Vec<&str> {
    let values = value.as_array().into_iter().flatten();
    values.filter_map(Value::as_str).collect()
}

/// A role of the release; given back as it was.
struct Role<'a> {
    release: &'a Release,
    kind: &'static str,
    name: &'static str,
    rules: Value,
}

impl<'a> Role<'a> {
    fn read(release: &'a Release, kind: &'static str, name: &'static str) -> Self {
        let get = ["-n", &release.space.name, "get", kind, name];
        let rules = release.cluster.json(&get).unwrap()["rules"].clone();
        Self {
            release,
            kind,
            name,
            rules,
        }
    }

    fn set(&self, rules: &Value) {
        let patch = json!([{"op": "replace", "path": "/rules", "value": rules}]).to_string();
        let target = ["-n", &self.release.space.name, "patch", self.kind, self.name];
        let patch = ["--type=json", "-p", &patch];
        self.release
            .cluster
            .kubectl(&[&target[..], &patch].concat())
            .unwrap();
    }

    /// The rules without one verb of one of them.
    fn without(&self, rule: usize, verb: &str) -> Value {
        let mut rules = self.rules.clone();
        let verbs = rules[rule]["verbs"].as_array_mut().unwrap();
        verbs.retain(|other| other != verb);
        if verbs.is_empty() {
            rules.as_array_mut().unwrap().remove(rule);
        }
        rules
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        self.set(&self.rules);
    }
}

#[test]
fn each_verb_of_each_role_is_named_by_check_when_it_alone_is_missing() {
    let cluster = Cluster::current().unwrap();
    let release = install(&cluster, &[]);
    eventually("nothing to complain of", MINUTE, || {
        wrong(&release)
            .iter()
            .all(|line| !line.contains("RBAC"))
            .then_some(())
    })
    .unwrap();
    let mut tried = 0;
    for (kind, name) in [
        ("clusterrole", "heddle-agent"),
        ("clusterrole", "heddle-controller"),
        ("role", "heddle-agent"),
        ("role", "heddle-controller"),
    ] {
        let role = Role::read(&release, kind, name);
        for (number, rule) in role.rules.as_array().unwrap().iter().enumerate() {
            for verb in strings(&rule["verbs"]) {
                role.set(&role.without(number, verb));
                for resource in strings(&rule["resources"]) {
                    let words = format!("account {name}: {verb} {resource}");
                    eventually(&words, SOON, || {
                        let lines = wrong(&release);
                        lines.iter().any(|line| line.contains(&words)).then_some(())
                    })
                    .unwrap();
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 35, "{tried} rights were tried");
}

/// The agents' rules, but Services are none of theirs.
fn without_services(role: &Role<'_>) -> Value {
    let mut rules = role.rules.clone();
    for rule in rules.as_array_mut().unwrap() {
        let resources = rule["resources"].as_array_mut().unwrap();
        if resources.iter().any(|resource| resource == "pods") {
            resources.retain(|resource| resource != "services");
        }
    }
    assert_ne!(rules, role.rules);
    rules
}

/// The agent of a node is deleted; the one that comes is not ready, and an Event tells why.
fn starts_anew_and_says_what_it_may_not_read(release: &Release, node: &str) {
    let (cluster, space) = (&release.cluster, &release.space.name);
    let agents = release.space.pods("heddle-agent").unwrap();
    let agent = agents.iter().find(|agent| agent.node == node).unwrap();
    cluster
        .kubectl(&["-n", space, "delete", "pod", &agent.name, "--wait=false"])
        .unwrap();
    eventually("the Event that names the kind", MINUTE, || {
        let events = cluster.json(&["-n", space, "get", "events"]).ok()?;
        let messages = events["items"].as_array()?.iter();
        let mut messages = messages.filter_map(|event| event["message"].as_str());
        messages.find(|text| {
            text.contains("Readiness probe failed")
                && text.contains("Service: ")
                && text.contains("cannot")
                && text.contains("\"services\"")
        })?;
        Some(())
    })
    .unwrap();
}

#[test]
fn an_agent_that_may_not_read_a_kind_is_not_ready_and_says_which_and_the_others_go_on() {
    let cluster = Cluster::current().unwrap();
    let (app, release) = App::in_mesh(&cluster, &[]);
    app.forgive();
    let role = Role::read(&release, "clusterrole", "heddle-agent");
    role.set(&without_services(&role));

    // It starts anew, and would take over from nobody.
    let load_on = app.space.pods("load").unwrap()[0].node.clone();
    let agents = release.space.pods("heddle-agent").unwrap();
    let victim = agents.iter().find(|agent| agent.node != load_on).unwrap();
    starts_anew_and_says_what_it_may_not_read(&release, &victim.node);
    let named = wrong(&release);
    assert!(
        named
            .iter()
            .any(|line| line.contains("account heddle-agent: list services")),
        "{named:?}"
    );
    drop(role);
    release
        .space
        .rolled_out("daemonset/heddle-agent", Duration::from_secs(120))
        .unwrap();
    app.await_captured(&release, MINUTE);
    assert_eq!(statuses(&release).len(), 2);
}

#[test]
fn an_agent_that_never_served_leaves_its_node_as_it_was_when_it_is_uninstalled() {
    let cluster = Cluster::current().unwrap();
    let node = cluster.ready_nodes().unwrap()[0].clone();
    let before = marks_of(&cluster, &node, "").unwrap();
    assert!(!before.contains("heddle"), "an earlier release left {before}");
    let release = install(&cluster, &[]);
    eventually("the plug-in on the node", MINUTE, || {
        (marks_of(&cluster, &node, "").ok()? != before).then_some(())
    })
    .unwrap();
    let role = Role::read(&release, "clusterrole", "heddle-agent");
    role.set(&without_services(&role));
    // It goes with the installation.
    std::mem::forget(role);
    starts_anew_and_says_what_it_may_not_read(&release, &node);
    release.uninstall().unwrap();
    assert_eq!(marks_of(&cluster, &node, "").unwrap(), before);
}

#[test]
fn without_a_webhook_what_is_applied_goes_through_is_counted_and_is_told_of_later() {
    let cluster = Cluster::current().unwrap();
    let release = install(&cluster, &[]);
    let space = cluster.namespace("app").unwrap();
    let broken = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: broken}\nspec:\n  hosts: [echo]\n  \
                  http: [{timeout: soon, route: [{destination: {host: echo}}]}]\n";
    eventually("the webhook", MINUTE, || {
        let refused = space.apply(broken).err()?;
        format!("{refused:#}")
            .contains("spec.http[0].timeout")
            .then_some(())
    })
    .unwrap();
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        let deployment = ["-n", &release.space.name, "scale", "deployment/heddle-controller"];
        cluster
            .kubectl(&[&deployment[..], &[&replicas]].concat())
            .unwrap();
    };
    let open = || -> f64 {
        let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]).unwrap();
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("apiserver_admission_webhook_fail_open_count"));
        let ours = lines.filter(|line| line.contains("validate.mesh.heddle.io"));
        ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    let before = open();
    scale("0");
    eventually("no controller", MINUTE, || {
        release
            .space
            .pods("heddle-controller")
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .unwrap();
    eventually("an apply that goes through", MINUTE, || space.apply(broken).ok()).unwrap();
    assert!(open() > before, "the rule HeddleWebhookFailing sees nothing");
    scale("2");
    eventually("the Event on the object", Duration::from_secs(120), || {
        let events = cluster.json(&["-n", &space.name, "get", "events"]).ok()?;
        let mut events = events["items"].as_array()?.clone().into_iter();
        events.find(|event| {
            event["reason"] == "Refused"
                && event["message"]
                    .as_str()
                    .is_some_and(|text| text.contains("spec.http[0].timeout"))
        })
    })
    .unwrap();
}
