//! The guides of 2018 and 2021 and the mirroring chapter: services that call each other, a rule that lets them out, a rule
//! that shifts them, a gateway in front, a mirror behind.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::guide::{CLIENT, Guide, VISITOR};
use mesh_tests::process::{Proc, built};
use mesh_tests::seed;
use serde_json::json;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

/// `heddle convert -f -`.
fn converted(yaml: &str) -> String {
    let mut child = Command::new(built("heddle").unwrap())
        .args(["convert", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Two pods of each version of svcb, whose port has no name, as the guide's.
fn svcb(mode: &str) -> Guide {
    let mut guide = Guide::of("default");
    for (pod, node, version) in [
        ("svcb-v0.1-a", 1, "v0.1"),
        ("svcb-v0.1-b", 2, "v0.1"),
        ("svcb-v0.2-a", 1, "v0.2"),
        ("svcb-v0.2-b", 2, "v0.2"),
    ] {
        guide = guide.pod(node, pod, "svcb", version).http(8080);
    }
    guide
        .service("svcb", 1, 80, 8080, "")
        .agent_args(&["--outbound-traffic-policy", mode])
        .start()
        .unwrap()
}

/// S070, S110 to S114: without a rule all four pods are asked; the guide's own never saw its 50/50.
#[test]
fn an_old_route_rule_shifts_a_service_to_its_new_version() {
    let guide = svcb("ALLOW_ANY");
    let of = |answer: &serde_json::Value, version: &str| -> u64 {
        let fields = answer["fields"].as_object().unwrap().iter();
        fields
            .filter(|(pod, _)| pod.contains(version))
            .filter_map(|(_, n)| n.as_u64())
            .sum()
    };
    let plain = guide.curl(CLIENT, "svcb", &["--count", "100"]).unwrap();
    assert_eq!(plain["fields"].as_object().unwrap().len(), 4, "{plain}");
    let id = &plain["last"]["body"]["headers"]["x-request-id"];
    assert!(
        id.is_string(),
        "a port without a name speaks HTTP all the same: {plain}"
    );
    guide
        .apply("30-rule.yaml", &converted(seed!("route-rules-svcb-v0.2-50.yaml")))
        .unwrap();
    let half = guide.curl(CLIENT, "svcb", &["--count", "200"]).unwrap();
    assert!((50..=150).contains(&of(&half, "v0.2")), "{half}");
    guide
        .apply(
            "30-rule.yaml",
            &converted(seed!("route-rules-svcb-v0.2-100.yaml")),
        )
        .unwrap();
    let all = guide.curl(CLIENT, "svcb", &["--count", "100"]).unwrap();
    assert_eq!(of(&all, "v0.2"), 100, "{all}");
    assert_eq!(all["fields"].as_object().unwrap().len(), 2, "{all}");
}

/// A server on an address that nobody of the mesh knows.
fn msgd(guide: &mut Guide, port: u16) -> (Proc, SocketAddr) {
    let pod = guide.ground.pod(2, "msgd").unwrap();
    let listen = format!("[::]:{port}");
    let args = ["http-server", "--listen", &listen, "--name", "msgd"];
    (pod.serve(&args).unwrap(), SocketAddr::new(pod.v4.into(), port))
}

/// S071, S100 to S103, S105, S108.
#[test]
fn a_service_outside_is_closed_until_the_old_egress_rule_opens_it() {
    let mut guide = svcb("REGISTRY_ONLY");
    let (_server, at) = msgd(&mut guide, 9997);
    let get = |to: SocketAddr| {
        let to = to.to_string();
        let path = "/send?msg=service_a:v0.1-pays-ok";
        guide
            .pod("svcb-v0.1-a")
            .podkit(&["get", "--to", &to, "--path", path])
            .unwrap()
    };
    let closed = get(at);
    assert!(closed["statuses"]["200"].is_null(), "{closed}");
    let told = || {
        guide
            .sum("heddle_bpf_decisions_total", &[("reason", "registry_only")])
            .ok()
    };
    eventually("the refusal with its reason", Duration::from_secs(10), || {
        (told()? >= 1.0).then_some(())
    })
    .unwrap();
    let rule =
        converted(seed!("enable-svcb-engress-rule.yaml")).replace("10.100.35.27", &at.ip().to_string());
    guide.apply("30-egress.yaml", &rule).unwrap();
    let open = eventually("the rule to open it", Duration::from_secs(5), || {
        let answer = get(at);
        (answer["statuses"]["200"] == 1).then_some(answer)
    })
    .unwrap();
    let seen = &open["last"]["body"];
    assert_eq!(seen["query"], "msg=service_a:v0.1-pays-ok", "{open}");
    assert!(seen["headers"]["x-request-id"].is_string(), "{open}");
    let leaked = seen["headers"]
        .as_object()
        .unwrap()
        .keys()
        .find(|k| k.contains("istio-attributes"));
    assert_eq!(leaked, None, "{open}");
    let elsewhere = get(SocketAddr::new(at.ip(), 9998));
    assert!(
        elsewhere["statuses"]["200"].is_null(),
        "another port: {elsewhere}"
    );
}

/// S160 to S162.
#[test]
fn a_mirror_gets_what_the_first_version_gets_and_the_caller_does_not_notice() {
    let guide = Guide::of("default")
        .pod(1, "httpbin-v1", "httpbin", "v1")
        .http(80)
        .pod(2, "httpbin-v2", "httpbin", "v2")
        .http(80)
        .service("httpbin", 1, 8000, 80, "http")
        .start()
        .unwrap();
    guide
        .apply(
            "31-dr.yaml",
            seed!("mirrors-httpbin-vs-dr.yaml").split("---\n").nth(1).unwrap(),
        )
        .unwrap();
    let steps = [
        (
            "none",
            seed!("mirrors-httpbin-vs-dr.yaml").split("---\n").next().unwrap(),
            0,
        ),
        ("all", seed!("mirrors-httpbin-v1-2-v2.yaml"), 20),
        ("unsaid", seed!("mirrors-httpbin-no-percentage.yaml"), 20),
    ];
    for (id, yaml, copies) in steps {
        guide.apply("30-vs.yaml", yaml).unwrap();
        let header = format!("x-test-id: {id}");
        let args = ["--path", "/headers", "--count", "20", "--header", &header];
        let answer = guide.curl(CLIENT, "httpbin", &args).unwrap();
        assert_eq!(answer["fields"], json!({"httpbin-v1": 20}), "{id}: {answer}");
        assert_eq!(guide.requests_at("httpbin-v1", 80, id).unwrap(), 20, "{id}");
        let of_copy = || guide.requests_at("httpbin-v2", 80, id).unwrap();
        eventually("the copies", Duration::from_secs(5), || {
            (of_copy() >= copies).then_some(())
        })
        .unwrap();
        assert_eq!(of_copy(), copies, "{id}");
    }
}

/// S080 to S085, S130 to S134, S153, S154: the chain of the guide, its gateway on the guide's own port 80.
#[test]
fn the_micro_services_are_reached_through_their_gateway_and_reach_each_other() {
    let guide = Guide::of("default")
        .pod(1, "micro-api", "micro-api", "v1")
        .http(9090)
        .pod(1, "micro-order-1", "micro-order", "v1")
        .http(9091)
        .pod(2, "micro-order-2", "micro-order", "v1")
        .http(9091)
        .pod(1, "micro-pay-1", "micro-pay", "v1")
        .http(18888)
        .pod(2, "micro-pay-2", "micro-pay", "v1")
        .http(18888)
        .service("micro-api", 1, 19090, 9090, "http")
        .service("micro-order", 2, 80, 9091, "")
        .service("micro-pay", 3, 18888, 18888, "grpc")
        .gateway("ingressgateway")
        .start()
        .unwrap();
    guide
        .apply("30-gateway.yaml", seed!("micro-gateway.yaml"))
        .unwrap();
    let create = ["--method", "POST", "--path", "/api/order/create", "--body", "66"];
    let create = [&create[..], &["--header", "x-request-id: 7b5c"]].concat();
    let answer = eventually(
        "the gateway to lead to micro-api",
        Duration::from_secs(10),
        || {
            let answer = guide
                .visit("ingressgateway", 80, "10.211.55.12:32277", &create)
                .ok()?;
            (answer["statuses"]["200"] == 1).then_some(answer)
        },
    )
    .unwrap();
    assert_eq!(answer["last"]["body"]["server"], "micro-api", "{answer}");
    assert_eq!(answer["last"]["body"]["body_bytes"], 66, "{answer}");
    assert_eq!(
        answer["last"]["body"]["headers"]["x-request-id"], "7b5c",
        "{answer}"
    );
    for path in ["/", "/api/order", "/api/order/create/", "/api/order/createx"] {
        let other = guide
            .visit("ingressgateway", 80, "any", &["--path", path])
            .unwrap();
        assert_eq!(other["statuses"], json!({"404": 1}), "{path}: {other}");
    }
    let more = [
        "--path",
        "/order/create",
        "--header",
        "x-request-id: 7b5c",
        "--count",
        "20",
    ];
    let order = guide.curl("micro-api", "micro-order", &more).unwrap();
    assert_eq!(
        order["fields"].as_object().unwrap().len(),
        2,
        "both pods: {order}"
    );
    assert_eq!(
        order["last"]["body"]["headers"]["x-request-id"], "7b5c",
        "{order}"
    );
    let calls = ["--grpc", "--keepalive", "--count", "40", "--path", "/Pay/create"];
    let pay = guide.curl("micro-order-1", "micro-pay", &calls).unwrap();
    assert_eq!(pay["statuses"], json!({"200": 40}), "{pay}");
    let labels = |pod: &'static str| [("reporter", "destination"), ("destination_workload", pod)];
    for pod in ["micro-pay-1", "micro-pay-2"] {
        eventually("calls on one connection at both", Duration::from_secs(5), || {
            (guide.sum("istio_requests_total", &labels(pod)).ok()? >= 5.0).then_some(())
        })
        .unwrap();
    }
}

/// S124, S126, S133: a Gateway of another namespace; half of the phones; a share of connections.
#[test]
fn a_gateway_elsewhere_shifts_requests_of_phones_and_tcp_connections() {
    let guide = Guide::of("weather")
        .pod(1, "frontend-v1", "frontend", "v1")
        .http(3000)
        .pod(2, "frontend-v2", "frontend", "v2")
        .http(3000)
        .pod(1, "tcp-echo-v1", "tcp-echo", "v1")
        .runs(
            "podkit",
            &["echo-server", "--listen", "[::]:9000", "--name", "v1"],
        )
        .pod(2, "tcp-echo-v2", "tcp-echo", "v2")
        .runs(
            "podkit",
            &["echo-server", "--listen", "[::]:9000", "--name", "v2"],
        )
        .service("frontend", 1, 3000, 3000, "http")
        .service("tcp-echo", 2, 9000, 9000, "tcp")
        .gateway("ingressgateway")
        .start()
        .unwrap();
    let visits = |more: &[&str]| {
        let args = [&["--count", "100"][..], more].concat();
        let answer = guide
            .visit("ingressgateway", 80, "weather.example", &args)
            .unwrap();
        assert_eq!(answer["statuses"], json!({"200": 100}), "{answer}");
        answer["fields"]["frontend-v2"].as_u64().unwrap_or(0)
    };
    guide
        .apply("30-gateway.yaml", seed!("weather-gateway.yaml"))
        .unwrap();
    eventually("the gateway to lead to frontend", Duration::from_secs(10), || {
        let answer = guide.visit("ingressgateway", 80, "weather.example", &[]).ok()?;
        (answer["statuses"]["200"] == 1).then_some(())
    })
    .unwrap();
    assert_eq!(visits(&[]), 0);
    let vs = seed!("vs-frontend-combined-condition.yaml");
    let gateway = seed!("weather-gateway.yaml").split("---\n").next().unwrap();
    guide
        .apply("30-gateway.yaml", &format!("{gateway}---\n{vs}"))
        .unwrap();
    let phone = ["--header", "User-Agent: Mozilla/5.0 (Linux; Android 14) Mobile"];
    eventually("half of the phones", Duration::from_secs(5), || {
        (20..=80).contains(&visits(&phone)).then_some(())
    })
    .unwrap();
    assert_eq!(visits(&["--header", "User-Agent: Mozilla/5.0 (iPhone)"]), 0);

    guide.apply("40-tcp.yaml", seed!("tcp-echo-20-v2.yaml")).unwrap();
    let to = SocketAddr::new(guide.pod("istio-ingressgateway").v4.into(), 31400).to_string();
    let greet = || {
        guide
            .pod(VISITOR)
            .podkit(&["connect", "--to", &to])
            .ok()
            .map(|a| a.to_string())
    };
    eventually("the gateway's TCP port", Duration::from_secs(10), || {
        greet().filter(|answer| answer.contains("\"v1\"") || answer.contains("\"v2\""))
    })
    .unwrap();
    let second = (0..150)
        .filter(|_| greet().is_some_and(|answer| answer.contains("\"v2\"")))
        .count();
    // 150 × 0.2 = 30, and six standard deviations of 5.
    assert!(
        (3..=60).contains(&second),
        "{second} of 150 connections: {:?}",
        greet()
    );
}

/// S107: to the outside by way of the egress gateway, which knows both steps of the VirtualService.
#[test]
fn what_goes_outside_goes_through_the_egress_gateway() {
    let mut guide = Guide::of("default")
        .service("istio-egressgateway", 9, 80, 80, "http2")
        .gateway("egressgateway")
        .start()
        .unwrap();
    let (_server, at) = msgd(&mut guide, 8080);
    let yaml = seed!("egress-gateway.yaml").replace("OUTSIDE", &at.ip().to_string());
    guide.apply("30-egress.yaml", &yaml).unwrap();
    let gateway = guide.pod("istio-egressgateway").v4;
    let args = ["get", "--to", "203.0.113.80:80", "--host", "www.istio.io"];
    let answer = eventually("the way outside", Duration::from_secs(10), || {
        let answer = guide.pod(CLIENT).podkit(&args).ok()?;
        (answer["statuses"]["200"] == 1).then_some(answer)
    });
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {:?}", guide.pod(CLIENT).podkit(&args)));
    let peer = answer["last"]["body"]["peer"].as_str().unwrap();
    assert!(
        peer.contains(&gateway.to_string()),
        "not through the gateway {gateway}: {answer}"
    );
}
