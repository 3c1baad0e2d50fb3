//! `heddle convert`, `analyze` and `what-if` on files: no agent, no cluster, no root.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::process::built;
use serde_json::Value;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};

/// A folder of files, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn with(name: &str, files: &[(&str, &str)]) -> Self {
        let folder = Self(std::env::temp_dir().join(format!("heddle-offline-{name}-{}", std::process::id())));
        std::fs::create_dir_all(&folder.0).unwrap();
        for (file, text) in files {
            std::fs::write(folder.path(file), text).unwrap();
        }
        folder
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs in the folder, without a cluster to fall back to.
fn heddle(folder: &Folder, args: &[&str], input: &str) -> Output {
    let mut child = std::process::Command::new(built("heddle").unwrap())
        .args(args)
        .current_dir(&folder.0)
        .env("KUBECONFIG", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const OLD: &str = "\
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata:
 name: route-rules-svcb
spec:
 destination:
   name: svcb
 precedence: 1
 route:
 - labels:
     version: v0.1
   weight: 50
 - labels:
     version: v0.2
   weight: 50
";

const SERVICES: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {heddle.io/mesh: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: svcb}
spec:
  clusterIP: 10.96.0.9
  selector: {app: svcb}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: b1, labels: {app: svcb, version: v0.1}}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b2, labels: {app: svcb, version: v0.2}}
status: {podIP: 10.1.0.2}
";

#[test]
fn the_canary_of_old_guides_is_converted_analyzed_and_tried_out_before_it_is_applied() {
    let folder = Folder::with("canary", &[("old.yaml", OLD), ("services.yaml", SERVICES)]);
    let converted = heddle(&folder, &["convert", "-f", "old.yaml"], "");
    assert!(converted.status.success(), "{}", err(&converted));
    assert!(err(&converted).contains(
        "note: RouteRule default/route-rules-svcb: spec.route[0].labels: version=v0.1 is subset v0-1"
    ));
    std::fs::write(folder.path("new.yaml"), out(&converted)).unwrap();

    let analyzed = heddle(&folder, &["analyze", "services.yaml", "new.yaml"], "");
    assert!(analyzed.status.success(), "{}{}", out(&analyzed), err(&analyzed));
    assert!(
        out(&analyzed).contains("nothing found in 6 objects"),
        "{}",
        out(&analyzed)
    );

    let asked = heddle(
        &folder,
        &[
            "what-if",
            "-f",
            "new.yaml",
            "--current-from",
            "services.yaml",
            "--requests",
            "-",
            "-o",
            "json",
        ],
        "{\"host\": \"svcb\", \"path\": \"/a\"}\n{\"host\": \"elsewhere.example\"}\n",
    );
    assert!(asked.status.success(), "{}", err(&asked));
    let answer: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!(answer["requests"], 2);
    assert_eq!(answer["problems"], serde_json::json!([]));
    let different = answer["different"].as_array().unwrap();
    assert_eq!(different.len(), 1, "{answer:#}");
    assert_eq!(different[0]["before"]["outcomes"]["default/svcb:80"], 1_000);
    assert_eq!(
        different[0]["after"]["outcomes"]["default/svcb:80 subset v0-1"],
        500
    );
    assert_eq!(
        different[0]["after"]["rule"],
        "VirtualService default/svcb spec.http[0]"
    );
}

#[test]
fn what_cannot_be_converted_is_named_and_fails_but_the_rest_is_written() {
    let folder = Folder::with("refused", &[]);
    let both = format!(
        "{OLD}---\napiVersion: config.istio.io/v1alpha2\nkind: memquota\nmetadata: {{name: q}}\nspec: {{}}\n"
    );
    let converted = heddle(&folder, &["convert", "-f", "-"], &both);
    assert_eq!(converted.status.code(), Some(1));
    assert!(
        err(&converted).contains("error: memquota default/q: kind:"),
        "{}",
        err(&converted)
    );
    assert!(out(&converted).contains("kind: VirtualService"));
}

#[test]
fn analyze_names_file_and_line_and_its_exit_code_follows_the_level() {
    let rules = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: r}
spec:
  hosts: [svcb]
  http:
  - route:
    - destination:
        host: svcb
        subset: nine
  - match:
    - uri: {prefix: /never}
    route:
    - destination: {host: svcb}
";
    let folder = Folder::with("lines", &[("rules.yaml", rules), ("services.yaml", SERVICES)]);
    let analyzed = heddle(
        &folder,
        &["analyze", "-f", "services.yaml", "-f", "rules.yaml"],
        "",
    );
    assert_eq!(analyzed.status.code(), Some(79), "{}", err(&analyzed));
    let text = out(&analyzed);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("Error [IST0101] (VirtualService default/r rules.yaml:10) spec.http[0].route[0].destination.subset: "),
        "{text}"
    );
    assert!(
        lines[1].starts_with("Warning [IST0130] (VirtualService default/r rules.yaml:11) spec.http[1]: "),
        "{text}"
    );
    assert_eq!(lines.len(), 2, "{text}");

    let fixed = rules.replace("        subset: nine\n", "");
    std::fs::write(folder.path("rules.yaml"), fixed).unwrap();
    let code = |more: &[&str]| {
        let args = [&["analyze", "services.yaml", "rules.yaml"], more].concat();
        heddle(&folder, &args, "").status.code()
    };
    assert_eq!(code(&[]), Some(0));
    assert_eq!(code(&["--failure-threshold", "Warning"]), Some(79));
    assert_eq!(code(&["--failure-threshold", "warning", "-n", "other"]), Some(0));
    let json = heddle(
        &folder,
        &["analyze", "services.yaml", "rules.yaml", "-o", "json"],
        "",
    );
    let rows: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&rows[0]["code"], &rows[0]["place"]),
        (&"IST0130".into(), &"rules.yaml:10".into())
    );
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_finding() {
    let folder = Folder::with("unreadable", &[("broken.yaml", "a: [\n"), ("rules.yaml", OLD)]);
    let broken = heddle(&folder, &["analyze", "broken.yaml"], "");
    assert_eq!(broken.status.code(), Some(1));
    assert!(err(&broken).contains("broken.yaml"), "{}", err(&broken));
    let nowhere = heddle(&folder, &["analyze"], "");
    assert_eq!(nowhere.status.code(), Some(1));
    let requests = heddle(
        &folder,
        &[
            "what-if",
            "-f",
            "rules.yaml",
            "--current-from",
            "rules.yaml",
            "--requests",
            "-",
        ],
        "{\"host\": 5}\n",
    );
    assert_eq!(requests.status.code(), Some(1));
    assert!(err(&requests).contains("-:1: host"), "{}", err(&requests));
}
