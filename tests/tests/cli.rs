//! `heddle`: what is captured and what not, why a request goes where it goes, and errors in words.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::manifests::{self, PodOptions};
use mesh_tests::process::built;
use mesh_tests::shop::{self, NAMESPACE, Shop, vips};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

fn heddle(args: &[&str]) -> Output {
    std::process::Command::new(built("heddle").unwrap())
        .args(args)
        .output()
        .unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn why(shop: &Shop, source: &str, destination: &str, args: &[&str]) -> Value {
    let args: Vec<&str> = ["why", source, destination].iter().chain(args).copied().collect();
    shop.agents[0].spec.heddle_json(&args).unwrap()
}

/// Pods that an agent answers for in different ways.
fn with_odd_pods() -> Shop {
    let mut shop = Shop::open().unwrap();
    let mut text = manifests::namespace("plain", false);
    let options = PodOptions {
        labels: &[("app", "odd")],
        ..PodOptions::default()
    };
    for (namespace, name) in [
        ("plain", "not-labelled"),
        (NAMESPACE, "opted-out"),
        (NAMESPACE, "on-the-host"),
        (NAMESPACE, "without-netns"),
        (NAMESPACE, "with-netns-gone"),
    ] {
        let pod = shop.ground.pod(1, name).unwrap();
        let object = manifests::pod(namespace, &pod, &options);
        let netns = format!("    heddle.io/netns: {}\n", pod.netns.path().display());
        text += &match name {
            "opted-out" => object.replace("  labels:\n", "  labels:\n    heddle.io/mesh: disabled\n"),
            "on-the-host" => object.replace("spec:\n", "spec:\n  hostNetwork: true\n"),
            "without-netns" => object.replace(&format!("  annotations:\n{netns}"), ""),
            "with-netns-gone" => {
                object.replace(&netns, "    heddle.io/netns: /run/netns/gone-with-the-wind\n")
            }
            _ => object,
        };
    }
    shop.apply("40-odd.yaml", &text).unwrap();
    shop
}

#[test]
fn status_says_of_each_pod_whether_it_is_captured_and_why_not() {
    let shop = with_odd_pods();
    let table = [
        ("shop/client", true, "captured"),
        ("shop/near", true, "captured"),
        ("shop/far", false, "on another node"),
        ("plain/not-labelled", false, "heddle.io/mesh=enabled"),
        ("shop/opted-out", false, "opts out"),
        ("shop/on-the-host", false, "host network"),
        ("shop/without-netns", false, "heddle.io/netns"),
        ("shop/with-netns-gone", false, "/run/netns/gone-with-the-wind"),
    ];
    let found = eventually("the pods' states", Duration::from_secs(5), || {
        let status = shop.status(0).ok()?;
        let pods = status["pods"].as_array()?.clone();
        let fits = |(name, captured, why): &(&str, bool, &str)| {
            let row = pods.iter().find(|row| row["pod"] == *name);
            row.is_some_and(|row| {
                row["captured"] == *captured && row["why"].as_str().is_some_and(|w| w.contains(why))
            })
        };
        table.iter().all(fits).then_some(())
    });
    found.unwrap_or_else(|error| panic!("{error}: {:#}", shop.status(0).unwrap()["pods"]));
    let status = shop.status(0).unwrap();
    let agent = &status["agent"];
    assert_eq!(
        (&agent["node"], &agent["ready"]),
        (&"node1".into(), &true.into()),
        "{agent}"
    );
    let text = shop.agents[0].spec.heddle(&["status"]).unwrap();
    for (name, _, why) in table {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name} is not in {text}"));
        assert!(line.contains(why), "{line}");
    }
    // The other agent says the same of the other side.
    let other = shop.status(1).unwrap();
    let row = other["pods"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["pod"] == "shop/far")
        .unwrap()
        .clone();
    assert_eq!(
        (&row["captured"], &row["identity"]),
        (&true.into(), &"spiffe://cluster.local/ns/shop/sa/shop".into())
    );
}

#[test]
fn why_agrees_with_what_then_happens() {
    let shop = Shop::open().unwrap();
    shop.route(
        "both",
        "- name: chrome\n  match:\n  - headers: {User-Agent: {regex: .*Chrome.*}}\n  route:\n  - destination: {host: both, subset: v2}\n\
         - match:\n  - uri: {prefix: /half}\n  route:\n  - destination: {host: both, subset: v1}\n    weight: 50\n  - destination: {host: both, subset: v2}\n    weight: 50\n\
         - match:\n  - uri: {prefix: /none}\n  route:\n  - destination: {host: both, subset: v3}\n\
         - match:\n  - uri: {prefix: /unknown}\n  route:\n  - destination: {host: both, subset: v9}\n\
         - match:\n  - uri: {prefix: /a}\n  route:\n  - destination: {host: both, subset: v1}",
    )
    .unwrap();
    shop.route("near", "- timeout: 2s\n  route:\n  - destination: {host: near}")
        .unwrap();
    let table = [
        ("both", shop::HTTP, "/a", ""),
        ("both", shop::HTTP, "/a", "user-agent: Chrome/1"),
        ("both", shop::HTTP, "/half", ""),
        ("both", shop::HTTP, "/none", ""),
        ("both", shop::HTTP, "/unknown", ""),
        ("both", shop::HTTP, "/not-routed", ""),
        ("both", shop::UNNAMED_HTTP, "/a", "user-agent: Chrome/1"),
        ("near", shop::HTTP, "/", ""),
        ("far", shop::HTTP, "/", ""),
        ("none", shop::HTTP, "/", ""),
    ];
    for (service, port, path, header) in table {
        let destination = format!("{service}:{port}");
        let mut args = vec!["--path", path];
        if !header.is_empty() {
            args.extend(["--header", header]);
        }
        let told = why(&shop, "shop/client", &destination, &args);
        let case = format!("{destination}{path} {header}: {told}");
        assert_eq!(told["kernel"]["verdict"], "proxy", "{case}");
        args.extend(["--host", service, "--count", "30", "--keepalive"]);
        for to in vips(service, port) {
            let got = shop.get(to, &args).unwrap();
            if told["refused"].is_object() {
                let status = told["refused"]["status"].to_string();
                assert_eq!(got["statuses"][&status], 30, "{case}: {got}");
                let labels = [
                    ("response_flags", told["refused"]["flag"].as_str().unwrap()),
                    ("response_code", &status),
                ];
                assert!(
                    shop.sum(0, "istio_requests_total", &labels).unwrap() >= 30.0,
                    "{case}"
                );
                continue;
            }
            assert_eq!(got["statuses"]["200"], 30, "{case}: {got}");
            let mut seen: Vec<String> = got["fields"]
                .as_object()
                .unwrap()
                .keys()
                .map(|name| format!("shop/{name}"))
                .collect();
            let route = told["route"]["destinations"].as_array();
            let subsets = route.map_or(0, |all| all.len());
            if subsets > 1 {
                assert_eq!(told["route"]["destinations"][0]["share"], 0.5, "{case}");
                assert_eq!(seen.len(), 2, "{case}: {got}");
                continue;
            }
            let mut pods: Vec<String> = told["endpoints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|endpoint| endpoint["pod"].as_str().unwrap().to_owned())
                .collect();
            pods.sort();
            pods.dedup();
            seen.sort();
            assert_eq!(seen, pods, "{case}: {got}");
        }
    }
    let told = why(&shop, "shop/client", "near:80", &[]);
    assert_eq!(told["route"]["object"], "shop/near", "{told}");
    assert_eq!(told["route"]["timeout_ms"], 2000, "{told}");
    let chrome = why(
        &shop,
        "shop/client",
        "both:80",
        &["--header", "User-Agent: Chrome/1"],
    );
    assert_eq!(
        (&chrome["route"]["name"], &chrome["route"]["rule"]),
        (&"chrome".into(), &0.into()),
        "{chrome}"
    );
    let text = shop.agents[0]
        .spec
        .heddle(&["why", "shop/client", "both:80", "--path", "/none"])
        .unwrap();
    assert!(text.contains("503") && text.contains("UH"), "{text}");
}

#[test]
fn why_knows_what_the_kernel_does_alone() {
    let shop = with_odd_pods();
    let proxied = || shop.sum(0, "istio_tcp_connections_opened_total", &[]).unwrap();
    let before = proxied();
    for to in vips("near", shop::ECHO) {
        let told = why(&shop, "shop/client", &to.to_string(), &[]);
        assert_eq!(told["kernel"]["verdict"], "direct", "{told}");
        let answer = shop.client.podkit(&["connect", "--to", &to.to_string()]).unwrap();
        assert_eq!(answer["reply"]["seen"]["server"], "near", "{answer}");
    }
    assert_eq!(proxied(), before, "a direct connection went through the proxy");
    let far = why(&shop, "shop/client", "far:7000", &[]);
    assert_eq!(far["kernel"]["verdict"], "proxy", "{far}");
    assert!(
        far["endpoints"][0]["transport"]
            .as_str()
            .unwrap()
            .contains("mutual TLS to node node2"),
        "{far}"
    );
    let none = why(&shop, "shop/client", "none:7000", &[]);
    let answer = shop
        .client
        .podkit(&["connect", "--to", &vips("none", shop::ECHO)[0].to_string()])
        .unwrap();
    assert_eq!(none["kernel"]["verdict"], "deny", "{none}");
    assert_eq!(answer["errno_name"], "ECONNREFUSED", "{answer}");
    // Pods that are not in the mesh are told to be so, with the reason.
    let outsider = why(&shop, "plain/not-labelled", "near.shop:80", &[]);
    assert_eq!(outsider["kernel"]["verdict"], "untouched", "{outsider}");
    assert!(
        outsider["steps"].to_string().contains("heddle.io/mesh=enabled"),
        "{outsider}"
    );
    let elsewhere = why(&shop, "shop/far", "near:80", &[]);
    assert!(
        elsewhere["steps"].to_string().contains("node2: ask there"),
        "{elsewhere}"
    );
    let outside = why(&shop, "shop/client", "192.0.2.1:443", &[]);
    assert_eq!(
        outside["kernel"]["verdict"]
            .as_str()
            .map(|v| ["pass", "proxy"].contains(&v)),
        Some(true),
        "{outside}"
    );
}

#[test]
fn questions_that_cannot_be_answered_fail_in_words() {
    let shop = Shop::open().unwrap();
    let socket = shop.agents[0].spec.admin_socket();
    let socket = socket.to_str().unwrap();
    for (args, said) in [
        (&["why", "shop/nobody", "near:80"][..], "shop/nobody"),
        (&["why", "nobody", "near:80"], "namespace/pod"),
        (&["why", "shop/client", "nothing:80"], "nothing"),
        (&["why", "shop/client", "near:http"], "http"),
        (
            &["why", "shop/client", "near:80", "--header", "no colon"],
            "no colon",
        ),
    ] {
        for output in ["text", "json"] {
            let result = heddle(&[args, &["--admin-socket", socket, "--output", output]].concat());
            assert!(!result.status.success(), "{args:?} succeeded");
            assert!(words(&result).contains(said), "{args:?}: {}", words(&result));
            assert!(
                result.stdout.is_empty(),
                "{args:?}: {}",
                String::from_utf8_lossy(&result.stdout)
            );
        }
    }
    let result = heddle(&["status", "--admin-socket", "/run/heddle/nobody.sock"]);
    assert!(
        !result.status.success() && words(&result).contains("/run/heddle/nobody.sock"),
        "{}",
        words(&result)
    );
    assert!(!heddle(&["unheard-of"]).status.success());
}

#[test]
fn check_and_version_need_no_agent() {
    let version = heddle(&["--version"]);
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    let check = heddle(&["check", "--output", "json"]);
    let answer: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert!(check.status.success() && answer["ok"] == true, "{answer}");
    let features = answer["features"].as_array().unwrap();
    assert!(features.len() >= 5, "{answer}");
    assert!(
        features
            .iter()
            .all(|row| row["feature"].is_string() && row["present"].is_boolean()),
        "{answer}"
    );
    let text = heddle(&["check"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert_eq!(
        text.lines().filter(|line| line.starts_with('✔')).count(),
        features.iter().filter(|r| r["present"] == true).count()
    );
}

#[test]
fn the_admin_socket_is_roots_alone_and_status_is_not_on_the_network() {
    use std::os::unix::fs::PermissionsExt;
    let shop = Shop::open().unwrap();
    let spec = &shop.agents[0].spec;
    let mode = std::fs::metadata(spec.admin_socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(spec.get("/healthz/live").unwrap().0, 200);
    for path in ["/status", "/why", "/"] {
        assert_eq!(spec.get(path).unwrap().0, 404, "{path}");
    }
    let node: SocketAddr = SocketAddr::new(shop.ground.nodes[0].v4.into(), mesh_tests::agent::METRICS_PORT);
    assert_eq!(
        shop.ground.nodes[1]
            .netns
            .http_get(node, "/healthz/ready")
            .unwrap()
            .0,
        200
    );
}
