//! The real helm, and the objects that it renders.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The namespace that the tests install into.
pub(crate) const NAMESPACE: &str = "heddle-system";

/// The chart's folder.
pub(crate) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/heddle")
}

/// helm as `HEDDLE_HELM` names it, as `cargo xtask cluster` builds it, or as the user has it.
///
/// # Panics
/// If there is none beside the suites on a cluster, which bring one. Elsewhere the test says that it did not run.
pub(crate) fn helm() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster");
    let built = std::env::var_os("KC_BUILD")
        .map_or(target, PathBuf::from)
        .join("bin/helm");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::var_os("HEDDLE_HELM")
        .map(PathBuf::from)
        .into_iter()
        .chain([built])
        .chain(std::env::split_paths(&path).map(|dir| dir.join("helm")))
        .find(|program| program.is_file());
    if found.is_none() {
        let lack = "NOT RUN: no helm: set HEDDLE_HELM, or `cargo xtask cluster up` builds one";
        if cfg!(feature = "cluster") {
            panic!("{lack}");
        }
        eprintln!("{lack}");
    }
    found
}

/// Runs helm on a cluster of nobody.
pub(crate) fn run(helm: &Path, args: &[&str]) -> Output {
    Command::new(helm)
        .args(args)
        .env_remove("KUBECONFIG")
        .output()
        .unwrap()
}

/// The values files of `ci/`, in order.
pub(crate) fn values_files() -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(chart().join("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Renders with more arguments and gives helm's answer.
pub(crate) fn template(helm: &Path, args: &[&str]) -> Output {
    let chart = chart();
    let fixed = ["template", "heddle", chart.to_str().unwrap(), "-n", NAMESPACE];
    // helm asks no cluster here, and would take an old version of Kubernetes for granted.
    let version = ["--kube-version", "1.34.0"];
    run(helm, &[&fixed[..], &version[..], args].concat())
}

/// Renders, and gives the objects.
pub(crate) fn render(helm: &Path, args: &[&str]) -> Vec<Value> {
    let output = template(helm, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm template {args:?}: {errors}");
    documents(&String::from_utf8(output.stdout).unwrap())
}

/// The documents of a YAML text that hold something.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// The object of a kind and name.
pub(crate) fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("the chart has no {kind} {name}"))
}

/// The only container of a workload.
pub(crate) fn container(workload: &Value) -> &Value {
    let containers = workload["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// Strings of a list.
pub(crate) fn strings(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}
