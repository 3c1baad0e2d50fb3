//! Configuration that changes, breaks and is repaired, while requests run without a pause.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::podkit::last_json;
use mesh_tests::process::Proc;
use mesh_tests::shop::{self, NAMESPACE, Shop, vips, virtual_service};
use serde_json::Value;
use std::time::{Duration, Instant};

const GOOD: &str = "- route:\n  - destination: {host: both, subset: v1}";

/// What each broken file must be answered with: object and field, either may be empty, and words of the reason.
struct Broken {
    name: &'static str,
    text: String,
    object: &'static str,
    field: &'static str,
}

fn broken(name: &'static str, object: &'static str, field: &'static str, text: impl Into<String>) -> Broken {
    Broken {
        name,
        text: text.into(),
        object,
        field,
    }
}

/// A VirtualService of the host `both` under a name of its own, with this `http`.
fn route(http: &str) -> String {
    virtual_service("both", http)
}

fn destination_rule(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: other\n  namespace: {NAMESPACE}\nspec:\n{spec}"
    )
}

const BOTH: &str = "VirtualService";

fn table() -> Vec<Broken> {
    let deep = format!("a: {}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..12 {
        let row = vec![format!("*a{}", i - 1); 10].join(",");
        bomb += &format!("a{i}: &a{i} [{row}]\n");
    }
    let mebibyte = "x".repeat(1 << 20);
    vec![
        broken("no YAML", "", "", "kind: [unclosed"),
        broken("a tab as indentation", "", "", "kind:\n\t- x"),
        broken("a NUL", "", "", "kind: Virtual\0Service"),
        broken("deep nesting", "", "", deep),
        broken("an alias bomb", "", "", bomb),
        broken("no kind", "", "kind", "apiVersion: v1\nmetadata:\n  name: x\n"),
        broken(
            "no name",
            BOTH,
            "metadata.name",
            route(GOOD).replace("  name: both\n", ""),
        ),
        broken(
            "a list as spec",
            BOTH,
            "spec",
            route(GOOD).split("spec:").next().unwrap().to_owned() + "spec: [1]\n",
        ),
        broken(
            "no http",
            BOTH,
            "spec.http",
            route("[]").replace("  http:\n  []\n", ""),
        ),
        broken(
            "a number for a host",
            BOTH,
            "spec.hosts",
            route(GOOD).replace("hosts: [both]", "hosts: {a: b}"),
        ),
        broken(
            "an impossible host",
            BOTH,
            "spec.hosts[0]",
            route(GOOD).replace("hosts: [both]", "hosts: [\"bo th\"]"),
        ),
        broken(
            "an unknown field",
            BOTH,
            "spec.http[0]",
            route(&format!("{GOOD}\n  rote: []")),
        ),
        broken(
            "a text for a weight",
            BOTH,
            "spec.http[0].route[0].weight",
            route("- route:\n  - destination: {host: both}\n    weight: heavy"),
        ),
        broken(
            "a negative weight",
            BOTH,
            "spec.http[0].route[0].weight",
            route(
                "- route:\n  - destination: {host: both, subset: v1}\n    weight: -1\n  - destination: {host: both, subset: v2}\n    weight: 101",
            ),
        ),
        broken(
            "weights that are all 0",
            BOTH,
            "spec.http[0].route",
            route(
                "- route:\n  - destination: {host: both, subset: v1}\n    weight: 0\n  - destination: {host: both, subset: v2}\n    weight: 0",
            ),
        ),
        broken(
            "a bad regex",
            BOTH,
            "spec.http[0].match[0].uri.regex",
            route("- match:\n  - uri: {regex: \"(unclosed\"}\n  route:\n  - destination: {host: both}"),
        ),
        broken(
            "both mirror and mirrors",
            BOTH,
            "spec.http[0].mirrors",
            route(&format!(
                "{GOOD}\n  mirror: {{host: both}}\n  mirrors:\n  - destination: {{host: both}}"
            )),
        ),
        broken(
            "110 percent",
            BOTH,
            "spec.http[0].mirrorPercentage.value",
            route(&format!(
                "{GOOD}\n  mirror: {{host: both}}\n  mirrorPercentage: {{value: 110}}"
            )),
        ),
        broken(
            "a timeout without a unit",
            BOTH,
            "spec.http[0].timeout",
            route(&format!("{GOOD}\n  timeout: 5")),
        ),
        broken(
            "a negative timeout",
            BOTH,
            "spec.http[0].timeout",
            route(&format!("{GOOD}\n  timeout: -5s")),
        ),
        broken(
            "a header with a line break",
            BOTH,
            "spec.http[0].headers.request.set",
            route(&format!(
                "{GOOD}\n  headers:\n    request:\n      set:\n        x-bad: \"a\\r\\nb\""
            )),
        ),
        broken(
            "port 0",
            BOTH,
            "spec.http[0].route[0].destination.port.number",
            route("- route:\n  - destination: {host: both, port: {number: 0}}"),
        ),
        broken(
            "1 MiB for a subset",
            BOTH,
            "spec.http[0].route[0].destination.subset",
            route(&format!(
                "- route:\n  - destination: {{host: both, subset: \"{mebibyte}\"}}"
            )),
        ),
        broken(
            "a subset without a name",
            "DestinationRule",
            "spec.subsets[0]",
            destination_rule("  host: both\n  subsets:\n  - labels: {a: b}\n"),
        ),
        broken(
            "no host",
            "DestinationRule",
            "spec",
            destination_rule("  subsets: []\n"),
        ),
    ]
}

fn start_load(shop: &Shop, rate: &str) -> Proc {
    let to = vips("both", shop::HTTP)[0].to_string();
    shop.client
        .serve(&["load", "--to", &to, "--host", "both", "--rate", rate])
        .unwrap()
}

fn stop_load(mut load: Proc) -> Value {
    load.stop(Duration::from_secs(15)).unwrap();
    last_json(&load.stdout()).unwrap()
}

fn problems(shop: &Shop, node: usize) -> Vec<Value> {
    shop.status(node).unwrap()["problems"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

#[test]
fn each_broken_file_is_named_with_object_and_field_and_harms_nothing() {
    let shop = Shop::open().unwrap();
    shop.route("both", GOOD).unwrap();
    assert_eq!(problems(&shop, 0), Vec::<Value>::new());
    let load = start_load(&shop, "50");
    let good = virtual_service("both", GOOD);
    let mut wrong = Vec::new();
    for case in table() {
        // What is about the route replaces the good one, which must stay in force; the rest comes beside it.
        let file = if case.object == BOTH && case.name != "no name" {
            "30-both.yaml"
        } else {
            "40-broken.yaml"
        };
        shop.config.write(file, &case.text).unwrap();
        for node in 0..2 {
            let found = eventually(case.name, Duration::from_secs(5), || {
                problems(&shop, node)
                    .into_iter()
                    .find(|problem| problem["origin"].as_str().is_some_and(|o| o.starts_with(file)))
            });
            let Ok(problem) = found else {
                wrong.push(format!(
                    "{}: not reported: {:?}",
                    case.name,
                    problems(&shop, node)
                ));
                continue;
            };
            let short: String = problem.to_string().chars().take(600).collect();
            let of = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
            if !of("object").contains(case.object)
                || !of("field").starts_with(case.field)
                || of("reason").is_empty()
            {
                wrong.push(format!(
                    "{}: expected {} {}: {short}",
                    case.name, case.object, case.field
                ));
            }
            if file == "30-both.yaml" && problem["last_good_in_force"] != true {
                wrong.push(format!(
                    "{}: the last good version is not in force: {short}",
                    case.name
                ));
            }
            if of("reason").len() > 2_000 {
                wrong.push(format!("{}: a reason of {} bytes", case.name, of("reason").len()));
            }
        }
        let answer = shop
            .get(vips("both", shop::HTTP)[1], &["--host", "both", "--count", "5"])
            .unwrap();
        if answer["fields"] != serde_json::json!({"near": 5}) {
            wrong.push(format!(
                "{}: the route is not the last good one: {answer}",
                case.name
            ));
        }
        if file == "30-both.yaml" {
            shop.config.write(file, &good).unwrap();
        } else {
            shop.config.remove(file).unwrap();
        }
        let cleared = eventually("the problem to go", Duration::from_secs(5), || {
            (0..2).all(|node| problems(&shop, node).is_empty()).then_some(())
        });
        if cleared.is_err() {
            wrong.push(format!(
                "{}: still there when repaired: {:?}",
                case.name,
                problems(&shop, 0)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let summary = stop_load(load);
    assert_eq!(summary["ok"], summary["sent"], "{summary}");
    assert!(summary["sent"].as_u64() > Some(50), "{summary}");
}

#[test]
fn a_second_version_of_an_object_is_ignored_and_named() {
    let shop = Shop::open().unwrap();
    shop.route("both", GOOD).unwrap();
    shop.config
        .write(
            "40-again.yaml",
            virtual_service("both", &GOOD.replace("v1", "v2")),
        )
        .unwrap();
    let problem = eventually("the second version", Duration::from_secs(5), || {
        problems(&shop, 0).into_iter().find(|problem| {
            problem["origin"]
                .as_str()
                .is_some_and(|o| o.starts_with("40-again"))
        })
    })
    .unwrap();
    assert!(problem["object"].as_str().unwrap().contains("both"), "{problem}");
    assert!(
        problem["reason"].as_str().unwrap().contains("30-both.yaml"),
        "{problem}"
    );
    let answer = shop
        .get(vips("both", shop::HTTP)[0], &["--host", "both", "--count", "10"])
        .unwrap();
    assert_eq!(answer["fields"], serde_json::json!({"near": 10}), "{answer}");
}

#[test]
fn a_repaired_file_takes_effect() {
    let shop = Shop::open().unwrap();
    shop.route("both", GOOD).unwrap();
    shop.config.write("30-both.yaml", "kind: [unclosed").unwrap();
    eventually("the broken file", Duration::from_secs(5), || {
        (!problems(&shop, 0).is_empty()).then_some(())
    })
    .unwrap();
    shop.config
        .write("30-both.yaml", virtual_service("both", &GOOD.replace("v1", "v2")))
        .unwrap();
    eventually("the repaired route", Duration::from_secs(5), || {
        let answer = shop.get(vips("both", shop::HTTP)[0], &["--host", "both"]).ok()?;
        (answer["fields"]["far"] == 1).then_some(())
    })
    .unwrap();
    assert_eq!(problems(&shop, 0), Vec::<Value>::new());
}

#[test]
fn a_change_in_a_folder_that_takes_many_batches_is_in_force() {
    let shop = Shop::open().unwrap();
    // Behind the route by name: the listing goes on after the batch that changed.
    let large = |n: u32| {
        let note = "x".repeat(100 << 10);
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: large-{n}\n  namespace: {NAMESPACE}\n  \
             annotations: {{note: {note}}}\nspec:\n  ports: [{{port: 80}}]"
        )
    };
    let text: Vec<String> = (0..4).map(large).collect();
    shop.config.write("50-large.yaml", text.join("\n---\n")).unwrap();
    for (subset, pod) in [("v1", "near"), ("v2", "far"), ("v1", "near")] {
        shop.route("both", &GOOD.replace("v1", subset)).unwrap();
        eventually("the change in answers", Duration::from_secs(5), || {
            let answer = shop
                .get(vips("both", shop::HTTP)[1], &["--host", "both", "--count", "4"])
                .ok()?;
            (answer["fields"][pod] == 4).then_some(())
        })
        .unwrap();
    }
}

#[test]
fn a_hundred_route_changes_lose_no_request() {
    let shop = Shop::open().unwrap();
    shop.route("both", GOOD).unwrap();
    let load = start_load(&shop, "100");
    let to = vips("both", shop::HTTP)[1];
    let mut took = Vec::new();
    for change in 0..100 {
        let (subset, pod) = if change % 2 == 0 {
            ("v2", "far")
        } else {
            ("v1", "near")
        };
        let start = Instant::now();
        shop.config
            .write(
                "30-both.yaml",
                virtual_service("both", &GOOD.replace("v1", subset)),
            )
            .unwrap();
        // Every tenth is watched until requests follow it; the others come as fast as they can be written.
        if change % 10 == 9 || change < 10 {
            eventually("the change in answers", Duration::from_secs(5), || {
                let answer = shop.get(to, &["--host", "both"]).ok()?;
                (answer["fields"][pod] == 1).then_some(())
            })
            .unwrap();
            took.push(start.elapsed());
        } else {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    took.sort();
    println!(
        "propagation of a route change: p50 {:?}, longest {:?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    let summary = stop_load(load);
    assert_eq!(summary["ok"], summary["sent"], "{summary}");
    assert_eq!(summary["statuses"]["200"], summary["sent"], "{summary}");
}

#[test]
fn endpoints_come_and_go_under_load() {
    let shop = Shop::open().unwrap();
    let load = start_load(&shop, "100");
    let good = std::fs::read_to_string(shop.config.path().join("20-pods.yaml")).unwrap();
    // Of the pods in the file, far is the last.
    let cut = good.rfind("status: \"True\"").unwrap();
    let unready = format!(
        "{}status: \"False\"{}",
        &good[..cut],
        &good[cut + "status: \"True\"".len()..]
    );
    let to = vips("both", shop::HTTP)[1];
    for _round in 0..8 {
        for (text, both) in [(&unready, false), (&good, true)] {
            shop.config.write("20-pods.yaml", text).unwrap();
            eventually("the endpoint to go or to come", Duration::from_secs(5), || {
                let answer = shop.get(to, &["--host", "both", "--count", "20"]).ok()?;
                (answer["fields"]["far"].is_null() != both).then_some(())
            })
            .unwrap();
        }
    }
    let summary = stop_load(load);
    assert_eq!(summary["ok"], summary["sent"], "{summary}");
    assert_eq!(summary["statuses"]["200"], summary["sent"], "{summary}");
}
