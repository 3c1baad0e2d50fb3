//! Rules and dashboards, judged by promtool and by what the agent's source registers.

use crate::helm;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn promtool(args: &[&str]) {
    let output = Command::new("promtool")
        .args(args)
        .output()
        .expect("promtool (package prometheus)");
    assert!(
        output.status.success(),
        "promtool {args:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn rules_file() -> PathBuf {
    helm::chart().join("files/rules/heddle.yaml")
}

/// Every query of every dashboard, with Grafana's variables filled in: dashboard and query.
fn dashboard_queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(helm::chart().join("files/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let board: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let uid = board["uid"].as_str().unwrap().to_owned();
        assert_eq!(
            path.file_stem().unwrap().to_str(),
            Some(&*uid),
            "the file is named after the uid"
        );
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
                queries.push((uid.clone(), query.replace('$', "")));
            }
        }
    }
    assert!(queries.len() > 40, "the dashboards have queries");
    queries
}

fn rule_queries() -> Vec<(String, String)> {
    let rules = helm::documents(&std::fs::read_to_string(rules_file()).unwrap()).remove(0);
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules
        .map(|rule| {
            let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
            (name.to_owned(), rule["expr"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn rules_hold_what_their_unit_tests_promise() {
    let rules = rules_file();
    promtool(&["check", "rules", rules.to_str().unwrap()]);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/rules_test.yaml");
    promtool(&["test", "rules", tests.to_str().unwrap()]);
}

#[test]
fn every_alert_has_a_unit_test_and_words_for_who_is_woken() {
    let rules = helm::documents(&std::fs::read_to_string(rules_file()).unwrap()).remove(0);
    let tests = include_str!("rules_test.yaml");
    let groups = rules["groups"].as_array().unwrap();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let Some(alert) = rule["alert"].as_str() else {
            continue;
        };
        assert!(tests.contains(alert), "{alert} has no test");
        for word in ["summary", "description"] {
            assert!(rule["annotations"][word].is_string(), "{alert} has no {word}");
        }
        let severity = rule["labels"]["severity"].as_str();
        assert!(
            matches!(severity, Some("critical" | "warning" | "info")),
            "{alert}: {severity:?}"
        );
    }
}

#[test]
fn every_query_of_the_dashboards_is_promql() {
    let mut rules = "groups:\n- name: dashboards\n  rules:\n".to_owned();
    for (number, (board, query)) in dashboard_queries().iter().enumerate() {
        let record = format!("{}:{number}", board.replace('-', "_"));
        write!(
            rules,
            "  - record: {record}\n    expr: {}\n",
            Value::from(query.as_str())
        )
        .unwrap();
    }
    let dir = std::env::temp_dir().join(format!("heddle-chart-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("dashboards.yaml");
    std::fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn rules_and_dashboards_ask_for_metrics_that_the_program_has() {
    let source = source_text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../mesh-agent/src"));
    let recorded: BTreeSet<String> = rule_queries().into_iter().map(|(name, _)| name).collect();
    let mut asked = 0;
    for (place, query) in dashboard_queries().into_iter().chain(rule_queries()) {
        for metric in metrics_of(&query) {
            if recorded.contains(&metric) {
                continue;
            }
            asked += 1;
            let base = ["_total", "_bucket"]
                .iter()
                .find_map(|suffix| metric.strip_suffix(suffix))
                .unwrap_or(&metric);
            // A family is registered by its name, or below a prefix.
            let quoted = |name: &str| source.contains(&format!("\"{name}\""));
            let known = quoted(base)
                || base
                    .match_indices('_')
                    .any(|(at, _)| quoted(&base[..at]) && quoted(&base[at + 1..]));
            assert!(known, "{place}: no such metric: {metric}");
        }
    }
    assert!(asked > 50, "{asked}");
}

/// Names in a query that are the mesh's own: `istio_*`, `heddle_*` and recorded ones.
fn metrics_of(query: &str) -> Vec<String> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut rest = query.to_owned();
    // What stands in quotes and braces is labels.
    while let (Some(open), Some(close)) = (rest.find('{'), rest.find('}')) {
        rest.replace_range(open..=close, " ");
    }
    rest.split(|c| !name(c))
        .filter(|word| {
            ["istio_", "heddle_", "service:", "instance:", "workload:"]
                .iter()
                .any(|p| word.starts_with(p))
        })
        .map(str::to_owned)
        .collect()
}

fn source_text(dir: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &source_text(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn the_operator_gets_the_rules_and_dashboards_of_the_files() {
    let Some(program) = helm::helm() else { return };
    let objects = helm::render(&program, &["--set", "monitoring.prometheusRule.enabled=true"]);
    let plain = helm::documents(&std::fs::read_to_string(rules_file()).unwrap()).remove(0);
    assert_eq!(helm::object(&objects, "PrometheusRule", "heddle")["spec"], plain);
    for name in ["heddle-mesh", "heddle-service", "heddle-agent"] {
        let map = helm::object(&objects, "ConfigMap", &format!("{name}-dashboard"));
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        let json = map["data"][format!("{name}.json")].as_str().unwrap();
        let board: Value = serde_json::from_str(json).unwrap();
        assert_eq!(board["uid"], *name);
    }
}
