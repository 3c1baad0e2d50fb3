//! The Helm chart, by the real helm and promtool: what it renders, what it refuses, what it asks of the cluster.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/prometheus.rs"]
mod prometheus;
#[path = "chart/promises.rs"]
mod promises;

use helm::{NAMESPACE, chart, container, object, render, strings};
use mesh_tests::process::built;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

#[test]
fn every_values_file_of_ci_lints_and_renders_complete_objects() {
    let Some(helm) = helm::helm() else { return };
    let files = helm::values_files();
    assert!(files.len() >= 4);
    for file in &files {
        let file = file.to_str().unwrap();
        let lint = helm::run(
            &helm,
            &["lint", "--strict", chart().to_str().unwrap(), "-f", file],
        );
        assert!(
            lint.status.success(),
            "{file}: {}",
            String::from_utf8_lossy(&lint.stdout)
        );
        let objects = render(&helm, &["-f", file]);
        let mut seen = BTreeSet::new();
        for object in &objects {
            let meta = &object["metadata"];
            let key = format!("{} {} {}", object["kind"], meta["namespace"], meta["name"]);
            assert!(
                object["apiVersion"].is_string() && meta["name"].is_string(),
                "{file}: {object}"
            );
            assert_eq!(
                meta["labels"]["app.kubernetes.io/part-of"], "heddle",
                "{file}: {key}"
            );
            assert!(seen.insert(key.clone()), "{file}: twice: {key}");
        }
    }
}

#[test]
fn a_wrong_value_is_refused_by_the_name_of_its_key() {
    let Some(helm) = helm::helm() else { return };
    let table = [
        ("webhook.enabld=true", "enabld"),
        ("agent.tolerations.key=x", "/agent/tolerations"),
        (
            "meshConfig.outboundTrafficPolicy.mode=ALLOW",
            "/meshConfig/outboundTrafficPolicy/mode",
        ),
        ("meshConfig.enableTracing=true", "enableTracing"),
        (
            "meshConfig.accessLogFile=/var/log/access",
            "/meshConfig/accessLogFile",
        ),
        ("meshConfig.trustDomain=not a domain", "/meshConfig/trustDomain"),
        ("logging.level=loud", "/logging/level"),
        ("logging.format=xml", "/logging/format"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.digest=sha256:12", "/image/digest"),
        ("agent.drainSeconds=-1", "/agent/drainSeconds"),
        ("agent.drainSeconds=soon", "/agent/drainSeconds"),
        ("agent.metricsAddr=:15020", "/agent/metricsAddr"),
        (
            "agent.updateStrategy.maxSurge=0",
            "/agent/updateStrategy/maxSurge",
        ),
        ("agent.updateStrategy.maxUnavailable=1", "maxUnavailable"),
        ("agent.extraCapabilities={ALL}", "/agent/extraCapabilities/0"),
        ("controller.replicas=0", "/controller/replicas"),
        ("ca.address=istiod", "/ca/address"),
        ("cni.binDir=opt/cni/bin", "/cni/binDir"),
        (
            "monitoring.podMonitor.interval=often",
            "/monitoring/podMonitor/interval",
        ),
        ("profile=demo", "profile"),
    ];
    for (value, name) in table {
        let output = helm::template(&helm, &["--set", value]);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{value} is taken");
        assert!(
            words.contains(name),
            "{value}: the answer does not name {name}: {words}"
        );
    }
}

#[test]
fn values_schema_and_readme_tell_of_the_same_keys() {
    let values = helm::documents(&std::fs::read_to_string(chart().join("values.yaml")).unwrap()).remove(0);
    let schema: Value =
        serde_json::from_slice(&std::fs::read(chart().join("values.schema.json")).unwrap()).unwrap();
    let readme = std::fs::read_to_string(chart().join("README.md")).unwrap();
    let mut leaves = Vec::new();
    compare("", &values, &schema, &mut leaves);
    assert!(leaves.len() > 50);
    for leaf in leaves {
        assert!(
            readme.contains(&format!("`{leaf}`")),
            "the README does not tell of {leaf}"
        );
    }
}

/// Walks values and schema together; collects the keys that hold no further ones.
fn compare(path: &str, values: &Value, schema: &Value, leaves: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object().filter(|_| values.is_object()) else {
        leaves.push(path.to_owned());
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{path} takes any key");
    let values = values.as_object().unwrap();
    let optional = ["global", "limits", "claims"];
    for key in properties.keys() {
        assert!(
            values.contains_key(key) || optional.contains(&&**key),
            "values.yaml lacks {path}.{key}"
        );
    }
    // `resources` is Kubernetes' own.
    if path.ends_with(".resources") {
        leaves.push(path.to_owned());
        return;
    }
    for (key, value) in values {
        let schema = properties
            .get(key)
            .unwrap_or_else(|| panic!("the schema lacks {path}.{key}"));
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        compare(&path, value, schema, leaves);
    }
}

/// What the service accounts may do. A change shows in the golden file, for a person to judge; `HEDDLE_UPDATE_GOLDEN=1`
/// writes it anew.
#[test]
fn what_the_service_accounts_may_do_is_what_the_golden_file_says() {
    let Some(helm) = helm::helm() else { return };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/rbac.golden.json");
    let objects = render(&helm, &[]);
    let rights: serde_json::Map<String, Value> = objects
        .iter()
        .filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")))
        .map(|role| {
            let name = format!(
                "{} {}",
                role["kind"].as_str().unwrap(),
                role["metadata"]["name"].as_str().unwrap()
            );
            (name, role["rules"].clone())
        })
        .collect();
    let rights = Value::Object(rights);
    if std::env::var_os("HEDDLE_UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, format!("{rights:#}\n")).unwrap();
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(rights, golden, "rendered: {rights:#}");
}

#[test]
fn roles_are_bound_to_their_own_account_alone_and_hold_no_wildcard() {
    let Some(helm) = helm::helm() else { return };
    let objects = render(&helm, &[]);
    for object in &objects {
        let name = &object["metadata"]["name"];
        match object["kind"].as_str().unwrap() {
            "RoleBinding" | "ClusterRoleBinding" => {
                assert_eq!(object["roleRef"]["name"], *name);
                if name == "heddle-gateway" {
                    // Whose accounts there are is known to the controller.
                    assert_eq!(object["subjects"], Value::Null);
                    continue;
                }
                let own = json!([{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]);
                assert_eq!(object["subjects"], own);
            }
            kind @ ("Role" | "ClusterRole") => {
                for rule in object["rules"].as_array().unwrap() {
                    for field in ["apiGroups", "resources", "verbs"] {
                        assert!(!strings(&rule[field]).contains(&"*"), "{name}: {rule}");
                    }
                    let secrets = strings(&rule["resources"]).contains(&"secrets");
                    // Bound by the controller, to one namespace at a time.
                    let of_certificates = kind == "ClusterRole" && name == "heddle-gateway-secrets";
                    assert!(
                        !secrets || of_certificates || kind == "Role" && name == "heddle-controller",
                        "{name}: {rule}"
                    );
                }
            }
            _ => {}
        }
    }
}

#[test]
fn every_flag_and_variable_is_one_that_the_program_knows() {
    let Some(helm) = helm::helm() else { return };
    for file in helm::values_files() {
        let objects = render(&helm, &["-f", file.to_str().unwrap()]);
        for (kind, name) in [
            ("DaemonSet", "heddle-agent"),
            ("Deployment", "heddle-controller"),
            ("Deployment", "istio-ingressgateway"),
        ] {
            let there = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == name;
            if name == "istio-ingressgateway" && !objects.iter().any(|o| there(&o)) {
                continue;
            }
            let container = container(object(&objects, kind, name));
            knows(name, container);
            for variable in container["env"].as_array().unwrap() {
                if variable["name"] == "HEDDLE_GATEWAY_TEMPLATE" {
                    let template: Value = serde_json::from_str(variable["value"].as_str().unwrap()).unwrap();
                    knows("a Gateway", &template["podTemplate"]["spec"]["containers"][0]);
                }
            }
        }
    }
}

/// Every flag and variable of a container is one of the program's.
fn knows(name: &str, container: &Value) {
    let args = strings(&container["args"]);
    let help = Command::new(built("mesh-agent").unwrap())
        .args([args[0], "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for arg in &args[1..] {
        let flag = arg
            .split_once('=')
            .unwrap_or_else(|| panic!("{arg} has no value"))
            .0;
        assert!(
            help.contains(&format!("{flag} <")),
            "{name}: {} has no {flag}",
            args[0]
        );
    }
    for variable in container["env"].as_array().unwrap() {
        let variable = variable["name"].as_str().unwrap();
        let known = variable == "HEDDLE_LOG" || help.contains(&format!("[env: {variable}="));
        assert!(known, "{name}: {} does not read {variable}", args[0]);
    }
}
