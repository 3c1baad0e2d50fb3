//! Which objects describe which pods, and when they are written.

use super::pace::SLOW_MS;
use super::*;
use crate::controller::pods::{PodIndex, PodKey, PodObject};
use serde_json::{Value, json};

fn pod(name: &str, prefix: Option<&str>, labels: &Value) -> PodRecord {
    let object: PodObject = serde_json::from_value(json!({
        "metadata": {
            "namespace": "weather", "name": name, "uid": name, "generateName": prefix, "labels": labels,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-v1-6c7f9b4d8",
                                 "uid": "u", "controller": true}],
        },
        "spec": {"serviceAccountName": "reviews", "nodeName": "n1"},
        "status": {"phase": "Running"},
    }))
    .unwrap();
    PodRecord::read(&object).unwrap()
}

const PREFIX: &str = "reviews-v1-6c7f9b4d8-";

fn usual(name: &str) -> PodRecord {
    let labels = json!({"app": "reviews", "version": "v1", "pod-template-hash": "6c7f9b4d8"});
    pod(name, Some(PREFIX), &labels)
}

fn of(index: &PodIndex) -> Vec<(String, WorkloadTemplate)> {
    let all = index
        .groups()
        .flat_map(|group| wanted(group, index.members(group)));
    let mut all: Vec<_> = all.map(|(key, spec)| (key.1.to_string(), spec)).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn key(name: &str) -> TemplateKey {
    ("weather".into(), name.into())
}

#[test]
fn pods_of_one_template_are_one_object_and_one_that_differs_has_its_own() {
    let mut index = PodIndex::default();
    for name in ["aaaaa", "bbbbb", "ccccc"] {
        index.put(usual(&format!("{PREFIX}{name}")));
    }
    let relabelled = pod(
        &format!("{PREFIX}ddddd"),
        Some(PREFIX),
        &json!({"app": "quarantine"}),
    );
    index.put(relabelled);
    let all = of(&index);
    let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["pod.reviews-v1-6c7f9b4d8-ddddd", "reviews-v1-6c7f9b4d8"]);
    let shared = &all[1].1;
    assert_eq!(shared.pod_prefix.as_deref(), Some(PREFIX));
    assert_eq!(&*shared.service_account_name, "reviews");
    let labels: Vec<_> = shared.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["app=reviews", "version=v1"]);
    let owner = shared.owner.as_ref().unwrap();
    assert_eq!((&*owner.kind, &*owner.name), ("deployment", "reviews-v1"));
    let own = &all[0].1;
    assert_eq!(own.pod_prefix, None);
    assert_eq!(own.pod_name.as_deref(), Some("reviews-v1-6c7f9b4d8-ddddd"));
    assert_eq!(own.owner.as_ref().unwrap().kind.as_ref(), "replicaset");
}

#[test]
fn a_bare_pod_and_a_set_of_the_same_name_do_not_collide() {
    let mut index = PodIndex::default();
    index.put(pod("web", None, &json!({})));
    index.put(pod("web-0", Some("web-"), &json!({})));
    let all = of(&index);
    let names: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["pod.web", "web"]);
}

#[test]
fn ended_pods_describe_nothing_and_account_for_nobody() {
    let mut index = PodIndex::default();
    index.put(usual("reviews-v1-6c7f9b4d8-aaaaa"));
    assert!(index.runs("n1", "weather", "reviews"));
    let mut ended = usual("reviews-v1-6c7f9b4d8-aaaaa");
    ended.ended = true;
    assert_eq!(index.put(ended).len(), 1);
    assert!(of(&index).is_empty() && !index.runs("n1", "weather", "reviews"));
}

#[test]
fn a_listing_removes_only_what_it_did_not_mention() {
    let mut index = PodIndex::default();
    index.begin();
    index.put(usual("reviews-v1-6c7f9b4d8-aaaaa"));
    index.put(usual("reviews-v1-6c7f9b4d8-bbbbb"));
    assert!(!index.complete() && index.end().is_empty() && index.complete());
    index.begin();
    assert!(index.put(usual("reviews-v1-6c7f9b4d8-bbbbb")).is_empty());
    assert_eq!((index.len(), index.end().len(), index.len()), (2, 1, 1));
    let last: PodKey = ("weather".into(), "reviews-v1-6c7f9b4d8-bbbbb".into());
    index.remove(&last);
    assert!(index.is_empty() && index.groups().next().is_none());
}

#[test]
fn an_annotation_that_opts_out_reaches_the_agents_as_a_label() {
    let object: PodObject = serde_json::from_value(json!({
        "metadata": {"namespace": "weather", "name": "a", "annotations": {"heddle.io/mesh": "disabled"}},
        "spec": {},
    }))
    .unwrap();
    let record = PodRecord::read(&object).unwrap();
    assert_eq!(
        record.facts.labels.get("heddle.io/mesh").map(|v| &**v),
        Some("disabled")
    );
    assert_eq!(&*record.facts.service_account, "default");
}

#[test]
fn a_name_that_is_too_long_is_cut_and_stays_distinct() {
    let names: BTreeSet<_> = ["a", "b"]
        .map(|end| {
            let prefix = format!("{}-{end}-", "x".repeat(260));
            fit(prefix.trim_end_matches('-'), &prefix)
        })
        .into();
    assert!(names.len() == 2 && names.iter().all(|name| name.len() <= MAX_NAME));
}

fn ledger_of(names: &[&str]) -> Ledger {
    let mut ledger = Ledger::default();
    for name in names {
        want(&mut ledger, name, "v1", 1);
    }
    ledger.begin();
    ledger.end(1);
    ledger.pods_listed(1);
    ledger
}

fn group(name: &str) -> Group {
    Group::Prefix("weather".into(), format!("{name}-").into())
}

fn want(ledger: &mut Ledger, name: &str, version: &str, now: u64) {
    let spec = WorkloadTemplate {
        labels: BTreeMap::from([("version".into(), version.into())]),
        ..WorkloadTemplate::default()
    };
    ledger.want(group(name), vec![(key(name), spec)], now);
}

fn drain(ledger: &mut Ledger, now: u64) -> usize {
    let mut made = 0;
    while let Some(write) = ledger.next(now) {
        ledger.done(&write, true);
        made += 1;
    }
    made
}

#[test]
fn what_is_there_already_is_not_written_again() {
    let mut ledger = Ledger::default();
    want(&mut ledger, "a", "v1", 1);
    ledger.begin();
    let same = (*ledger.wanted[&key("a")]).clone();
    ledger.observe(key("a"), Some(same), 1);
    assert_eq!(ledger.next(1), None, "neither listing is complete");
    ledger.end(1);
    ledger.pods_listed(1);
    assert_eq!(drain(&mut ledger, 1), 0);
    // Someone edits it by hand.
    ledger.observe(key("a"), Some(WorkloadTemplate::default()), 2_000);
    assert_eq!(drain(&mut ledger, 2_000), 1);
}

#[test]
fn one_object_is_written_once_a_second_and_all_of_them_twenty_times() {
    let mut ledger = ledger_of(&["a"]);
    assert_eq!(drain(&mut ledger, 1), 1);
    for now in 2..1_000 {
        want(&mut ledger, "a", &format!("v{now}"), now);
        assert_eq!(drain(&mut ledger, now), 0, "{now}");
    }
    assert_eq!(drain(&mut ledger, 1_001), 1);
    let names = names(1_000);
    let mut crowd = ledger_of(&names);
    crowd.answered(None);
    let made: usize = (0..10_000).step_by(10).map(|ms| drain(&mut crowd, 1 + ms)).sum();
    assert!(
        (299..=300).contains(&made),
        "100 at once, then 20/s for 10 s: {made}"
    );
}

fn names(count: usize) -> Vec<&'static str> {
    (0..count).map(|i| &*format!("n{i}").leak()).collect()
}

fn over_seconds(ledger: &mut Ledger, seconds: std::ops::Range<u64>) -> usize {
    let times = (seconds.start * 1_000..seconds.end * 1_000).step_by(10);
    times.map(|ms| drain(ledger, 1 + ms)).sum()
}

#[test]
fn the_first_fill_is_fast_until_everything_is_there() {
    let names = names(1_000);
    let mut crowd = ledger_of(&names);
    let made = over_seconds(&mut crowd, 0..4);
    assert!((890..=900).contains(&made), "100 at once, then 200/s: {made}");
    over_seconds(&mut crowd, 4..6);
    assert_eq!((crowd.len(), crowd.pending()), (1_000, 0));
    for name in &names {
        want(&mut crowd, name, "v2", 100_000);
    }
    let made = over_seconds(&mut crowd, 100..110);
    assert!((290..=301).contains(&made), "the steady limit: {made}");
}

#[test]
fn the_first_fill_is_slower_when_the_api_server_is_and_never_slower_than_the_steady_limit() {
    let mut crowd = ledger_of(&names(1_000));
    let before = over_seconds(&mut crowd, 0..1);
    crowd.answered(Some(SLOW_MS + 1));
    let after = over_seconds(&mut crowd, 1..2);
    assert!(
        (290..=300).contains(&before) && (95..=101).contains(&after),
        "{before} {after}"
    );
    (0..10).for_each(|_| crowd.answered(Some(5_000)));
    assert!((19..=21).contains(&over_seconds(&mut crowd, 2..3)));
}

#[test]
fn an_object_without_pods_goes_after_a_grace_and_not_if_they_return() {
    let mut ledger = ledger_of(&["a", "b"]);
    assert_eq!(drain(&mut ledger, 1), 2);
    ledger.want(group("a"), Vec::new(), 5_000);
    ledger.want(group("b"), Vec::new(), 5_000);
    assert_eq!(drain(&mut ledger, 5_000 + GRACE_MS - 1), 0);
    want(&mut ledger, "b", "v1", 5_000 + GRACE_MS - 1);
    assert_eq!(ledger.next(5_000 + GRACE_MS), Some(Write::Delete(key("a"))));
    assert_eq!(ledger.next(5_000 + GRACE_MS), None);
}

#[test]
fn a_start_deletes_nothing_before_every_pod_was_seen() {
    let mut ledger = Ledger::default();
    ledger.begin();
    ledger.observe(key("a"), Some(WorkloadTemplate::default()), 1);
    ledger.end(1);
    assert_eq!(ledger.next(60_000), None);
    ledger.pods_listed(60_000);
    assert_eq!(ledger.next(60_001), None);
    assert_eq!(ledger.next(60_000 + GRACE_MS), Some(Write::Delete(key("a"))));
}

#[test]
fn a_write_that_failed_is_tried_again() {
    let mut ledger = ledger_of(&["a"]);
    let write = ledger.next(1).unwrap();
    ledger.done(&write, false);
    assert_eq!(ledger.next(500), None);
    assert_eq!(ledger.next(1_001), Some(write));
}
