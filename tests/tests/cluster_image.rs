//! The image, as a container runtime runs it.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{self, Cluster, Namespace};
use mesh_tests::eventually;
use std::time::Duration;

/// Runs the image once, nobody in particular, with nothing writable, and gives what it printed.
fn once(cluster: &Cluster, space: &Namespace, name: &str, command: &[&str]) -> String {
    let image = cluster::image();
    let command = serde_json::to_string(command).unwrap();
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - name: heddle\n    image: \"{image}\"\n    imagePullPolicy: IfNotPresent\n    command: {command}\n    \
         securityContext: {{runAsNonRoot: true, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, \
         capabilities: {{drop: [ALL]}}}}\n"
    );
    space.apply(&yaml).unwrap();
    let phase = [
        "-n",
        &space.name,
        "get",
        "pod",
        name,
        "-o",
        "jsonpath={.status.phase}",
    ];
    let phase = eventually("the container's end", Duration::from_secs(60), || {
        let phase = cluster.kubectl(&phase).ok()?;
        (phase == "Succeeded" || phase == "Failed").then_some(phase)
    });
    let log = cluster.kubectl(&["-n", &space.name, "logs", name]);
    let log = log.unwrap_or_else(|error| format!("{error:#}"));
    match phase {
        Ok(phase) if phase == "Succeeded" => log,
        other => panic!("{command}: {other:?}: {log}"),
    }
}

#[test]
fn both_names_of_the_program_run_without_root_and_without_a_writable_file() {
    let cluster = Cluster::current().unwrap();
    let space = cluster.namespace("image").unwrap();
    let agent = once(&cluster, &space, "agent", &["mesh-agent", "run", "--help"]);
    assert!(agent.contains("--node"), "{agent}");
    let user = once(&cluster, &space, "user", &["heddle", "--help"]);
    assert!(user.contains("why"), "{user}");
}
