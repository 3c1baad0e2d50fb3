//! Requests through the mesh: same node and between nodes, both families, HTTP/1.1 and HTTP/2, on ports that say
//! what they speak and on ports that do not.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::shop::{self, Shop, everywhere, peak_while, vips};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const CHROME: &str =
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36";
const FIREFOX: &str = "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0";
const VERSIONS: [&[&str]; 2] = [&[], &["--http2"]];

/// Every place, port, family and version, with the place's name and that of the case.
fn cases(ports: &[u16]) -> Vec<(String, String, SocketAddr, &'static [&'static str])> {
    let mut all = Vec::new();
    for (case, to) in everywhere(ports) {
        let place = case.split(' ').next().unwrap().to_owned();
        for version in VERSIONS {
            all.push((format!("{case} {version:?}"), place.clone(), to, version));
        }
    }
    all
}

fn get(shop: &Shop, to: SocketAddr, args: &[&str], more: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().chain(more).copied().collect();
    shop.get(to, &args).unwrap()
}

/// A route of each place's own service that marks the answers which went over it.
fn mark(shop: &Shop) {
    for place in shop::PLACES {
        let http = format!(
            "- headers:\n    response:\n      set:\n        x-routed: \"{place}\"\n  route:\n  - destination:\n      host: {place}"
        );
        shop.route(place, &http).unwrap();
    }
}

#[test]
fn a_host_is_found_in_each_of_its_forms() {
    let shop = Shop::open().unwrap();
    mark(&shop);
    for (case, place, to, version) in cases(&[shop::HTTP]) {
        for form in [
            "",
            ".shop",
            ".shop.svc",
            ".shop.svc.cluster.local",
            ".shop.svc.cluster.local.",
        ] {
            for port in ["", ":80"] {
                let host = format!("{place}{form}{port}");
                let answer = get(&shop, to, &["--host", &host], version);
                assert_eq!(answer["statuses"]["200"], 1, "{case} {host}: {answer}");
                assert_eq!(
                    answer["last"]["headers"]["x-routed"], *place,
                    "{case} {host}: {answer}"
                );
            }
        }
    }
}

#[test]
fn http_is_found_on_ports_that_do_not_name_it() {
    let shop = Shop::open().unwrap();
    mark(&shop);
    for (case, place, to, version) in cases(&[shop::UNNAMED_HTTP, shop::HTTP2]) {
        if to.port() == shop::HTTP2 && version.is_empty() {
            continue;
        }
        let answer = get(&shop, to, &["--host", &place], version);
        assert_eq!(answer["last"]["headers"]["x-routed"], *place, "{case}: {answer}");
        assert_eq!(answer["fields"][&place], 1, "{case}: {answer}");
        let want = if version.is_empty() {
            "HTTP/1.1"
        } else {
            "HTTP/2.0"
        };
        assert_eq!(answer["last"]["body"]["version"], want, "{case}: {answer}");
    }
}

#[test]
fn what_is_declared_tcp_is_never_read_as_http() {
    let shop = Shop::open().unwrap();
    mark(&shop);
    for (case, place, to, version) in cases(&[shop::TCP_WEB]) {
        let answer = get(&shop, to, &["--host", &place], version);
        assert_eq!(answer["fields"][&place], 1, "{case}: {answer}");
        let (headers, seen) = (&answer["last"]["headers"], &answer["last"]["body"]["headers"]);
        assert!(
            headers["x-routed"].is_null() && seen["x-request-id"].is_null(),
            "{case}: {answer}"
        );
    }
}

#[test]
fn a_header_regex_chooses_the_version() {
    let shop = Shop::open().unwrap();
    let http = "- match:\n  - headers:\n      User-Agent:\n        regex: .*(Chrome/([\\d.]+)).*\n  route:\n  - destination: {host: both, subset: v2}\n- route:\n  - destination: {host: both, subset: v1}";
    shop.route("both", http).unwrap();
    for to in vips("both", shop::HTTP)
        .into_iter()
        .chain(vips("both", shop::UNNAMED_HTTP))
    {
        for version in VERSIONS {
            let chrome = get(
                &shop,
                to,
                &["--host", "both", "--count", "10", "--header", CHROME],
                version,
            );
            assert_eq!(chrome["fields"], json!({"far": 10}), "{to} {version:?}: {chrome}");
            let firefox = get(
                &shop,
                to,
                &["--host", "both", "--count", "10", "--header", FIREFOX],
                version,
            );
            assert_eq!(
                firefox["fields"],
                json!({"near": 10}),
                "{to} {version:?}: {firefox}"
            );
        }
    }
}

#[test]
fn weights_split_requests_also_on_one_connection() {
    let shop = Shop::open().unwrap();
    let http = "- route:\n  - destination: {host: both, subset: v1}\n    weight: 80\n  - destination: {host: both, subset: v2}\n    weight: 20";
    shop.route("both", http).unwrap();
    for to in vips("both", shop::HTTP) {
        for version in VERSIONS {
            let answer = get(
                &shop,
                to,
                &["--host", "both", "--count", "400", "--keepalive"],
                version,
            );
            assert_eq!(answer["statuses"]["200"], 400, "{to} {version:?}: {answer}");
            // 400 × 0.2 = 80, and seven standard deviations of 8.
            let far = answer["fields"]["far"].as_u64().unwrap();
            assert!((24..=136).contains(&far), "{to} {version:?}: {answer}");
        }
    }
}

#[test]
fn each_request_of_a_connection_is_routed_on_its_own() {
    let shop = Shop::open().unwrap();
    let http = "- match:\n  - uri: {prefix: /far}\n  route:\n  - destination: {host: both, subset: v2}\n- route:\n  - destination: {host: both, subset: v1}";
    shop.route("both", http).unwrap();
    for to in vips("both", shop::HTTP) {
        let request = |path: &str| format!("GET {path} HTTP/1.1\\r\\nhost: both\\r\\n\\r\\n");
        let requests = ["/a", "/far/b", "/c", "/far/d"].map(request);
        // One after another, and all in one piece.
        let apart: Vec<&str> = requests.iter().map(String::as_str).collect();
        let pipelined = requests.concat();
        for data in [apart, vec![&pipelined]] {
            let answer = shop.raw(to, &data, &[]).unwrap();
            let text = answer["reply"].as_str().unwrap();
            let servers: Vec<&str> = text
                .split("\"server\":\"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .collect();
            assert_eq!(servers, ["near", "far", "near", "far"], "{to}: {answer}");
        }
    }
}

#[test]
fn what_cannot_be_routed_is_answered_with_its_flag() {
    let shop = Shop::open().unwrap();
    shop.route(
        "near",
        "- match:\n  - uri: {prefix: /only}\n  route:\n  - destination: {host: near}",
    )
    .unwrap();
    shop.route(
        "both",
        "- match:\n  - uri: {prefix: /unknown}\n  route:\n  - destination: {host: both, subset: v9}\n- match:\n  - uri: {prefix: /nowhere}\n  route:\n  - destination: {host: nowhere.example.com}\n- route:\n  - destination: {host: both, subset: v3}",
    )
    .unwrap();
    let table = [
        ("near", shop::HTTP, "/other", "404", "NR"),
        ("none", shop::HTTP, "/", "503", "UH"),
        ("both", shop::HTTP, "/unknown", "503", "NC"),
        ("both", shop::HTTP, "/nowhere", "503", "NC"),
        ("both", shop::HTTP, "/", "503", "UH"),
        ("near", shop::CLOSED_HTTP, "/only", "503", "UF"),
    ];
    for (service, port, path, status, flag) in table {
        for to in vips(service, port) {
            for version in VERSIONS {
                let labels = [
                    ("reporter", "source"),
                    ("response_code", status),
                    ("response_flags", flag),
                ];
                let count = || shop.sum(0, "istio_requests_total", &labels).unwrap();
                let before = count();
                let answer = get(&shop, to, &["--host", service, "--path", path], version);
                assert_eq!(
                    answer["statuses"][status], 1,
                    "{service}{path} {to} {version:?}: {answer}"
                );
                eventually(
                    &format!("{service}{path} counted with {flag}"),
                    Duration::from_secs(3),
                    || (count() == before + 1.0).then_some(()),
                )
                .unwrap_or_else(|error| panic!("{error}: {:#?}", shop.flags(0).unwrap()));
            }
            // gRPC clients are told in their own way.
            let answer = get(&shop, to, &["--host", service, "--path", path], &["--grpc"]);
            assert_eq!(answer["statuses"]["200"], 1, "{service}{path}: {answer}");
            let status = |part: &str| answer["last"][part]["grpc-status"].clone();
            let told = [status("headers"), status("trailers")];
            assert!(
                told.iter().any(|s| s == "12" || s == "14"),
                "{service}{path}: {answer}"
            );
        }
    }
    // Between nodes the application is reached by the other agent, which knows why it was not.
    for to in vips("far", shop::CLOSED_HTTP) {
        let answer = get(&shop, to, &["--host", "far"], &[]);
        assert_eq!(answer["statuses"]["503"], 1, "{to}: {answer}");
    }
    let labels = [
        ("reporter", "destination"),
        ("response_code", "503"),
        ("response_flags", "UF"),
    ];
    eventually("the other agent's count", Duration::from_secs(3), || {
        (shop.sum(1, "istio_requests_total", &labels).ok()? >= 2.0).then_some(())
    })
    .unwrap();
}

#[test]
fn a_route_timeout_is_a_504_in_time() {
    let shop = Shop::open().unwrap();
    for place in shop::PLACES {
        shop.route(
            place,
            &format!("- timeout: 300ms\n  route:\n  - destination: {{host: {place}}}"),
        )
        .unwrap();
    }
    for (case, place, to, version) in cases(&[shop::HTTP]) {
        let slow = get(&shop, to, &["--host", &place, "--path", "/slow/4000"], version);
        assert_eq!(slow["statuses"]["504"], 1, "{case}: {slow}");
        let took = slow["max_ms"].as_f64().unwrap();
        assert!((290.0..2_000.0).contains(&took), "{case}: {slow}");
        let quick = get(&shop, to, &["--host", &place, "--path", "/slow/10"], version);
        assert_eq!(quick["statuses"]["200"], 1, "{case}: {quick}");
    }
    let labels = [
        ("response_code", "504"),
        ("response_flags", "UT"),
        ("reporter", "source"),
    ];
    assert_eq!(shop.sum(0, "istio_requests_total", &labels).unwrap(), 8.0);
}

#[test]
fn retries_are_as_many_as_the_route_says() {
    let shop = Shop::open().unwrap();
    for place in shop::PLACES {
        let http = format!(
            "- match:\n  - uri: {{prefix: /status}}\n  retries: {{attempts: 3, retryOn: 5xx}}\n  route:\n  - destination: {{host: {place}}}\n- retries: {{attempts: 0}}\n  rewrite_not: x\n  route:\n  - destination: {{host: {place}}}"
        )
        .replace("  rewrite_not: x\n", "");
        shop.route(place, &http).unwrap();
    }
    for (index, (case, place, to, version)) in cases(&[shop::HTTP]).into_iter().enumerate() {
        let pod = if place == "near" { &shop.near } else { &shop.far };
        let id = format!("retried-{index}");
        let header = format!("x-test-id: {id}");
        let answer = get(
            &shop,
            to,
            &["--host", &place, "--path", "/status/500", "--header", &header],
            version,
        );
        assert_eq!(answer["statuses"]["500"], 1, "{case}: {answer}");
        assert_eq!(shop.requests_at(pod, &id).unwrap(), 4, "{case}");
        let id = format!("good-{index}");
        let header = format!("x-test-id: {id}");
        let answer = get(
            &shop,
            to,
            &["--host", &place, "--path", "/status/201", "--header", &header],
            version,
        );
        assert_eq!(answer["statuses"]["201"], 1, "{case}: {answer}");
        assert_eq!(shop.requests_at(pod, &id).unwrap(), 1, "{case}");
    }
}

#[test]
fn a_mirror_gets_each_request_once_and_nobody_waits_for_it() {
    let mut shop = Shop::open().unwrap();
    let http = "- route:\n  - destination: {host: both, subset: v1}\n  mirror: {host: both, subset: v2}\n  mirrorPercentage: {value: 100.0}";
    shop.route("both", http).unwrap();
    let to = vips("both", shop::HTTP);
    for (index, (to, version)) in to.iter().flat_map(|to| VERSIONS.map(|v| (*to, v))).enumerate() {
        let id = format!("mirrored-{index}");
        let header = format!("x-test-id: {id}");
        let args = [
            "--host", "both", "--count", "50", "--method", "POST", "--body", "1000", "--header", &header,
        ];
        let answer = get(&shop, to, &args, version);
        assert_eq!(
            answer["fields"],
            json!({"near": 50}),
            "{to} {version:?}: {answer}"
        );
        eventually("all copies", Duration::from_secs(5), || {
            (shop.requests_at(&shop.far, &id).ok()? >= 50).then_some(())
        })
        .unwrap();
        assert_eq!(shop.requests_at(&shop.near, &id).unwrap(), 50, "{to} {version:?}");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(shop.requests_at(&shop.far, &id).unwrap(), 50, "{to} {version:?}");
    }
    let server = shop
        .procs
        .iter_mut()
        .find(|p| p.name().starts_with("far") && p.name().contains("http"));
    let server = server.unwrap();
    server.signal(Signal::SIGSTOP).unwrap();
    let answer = shop
        .client
        .podkit(&[
            "get",
            "--to",
            &to[0].to_string(),
            "--host",
            "both",
            "--count",
            "20",
        ])
        .unwrap();
    server.signal(Signal::SIGCONT).unwrap();
    assert_eq!(answer["fields"], json!({"near": 20}), "{answer}");
    assert!(answer["max_ms"].as_f64().unwrap() < 1_500.0, "{answer}");
}

#[test]
fn headers_are_set_added_and_removed() {
    let shop = Shop::open().unwrap();
    for place in shop::PLACES {
        let http = format!(
            "- headers:\n    request:\n      set: {{x-set: new, x-fresh: fresh}}\n      add: {{x-add: more}}\n      remove: [x-gone]\n    response:\n      set: {{content-type: text/changed}}\n      add: {{x-answer: yes-it-is}}\n      remove: [date]\n  route:\n  - destination: {{host: {place}}}"
        );
        shop.route(place, &http).unwrap();
    }
    for (case, place, to, version) in cases(&[shop::HTTP, shop::UNNAMED_HTTP]) {
        let mut args = vec!["--host", &place];
        for header in ["x-set: old", "x-add: one", "x-gone: here", "x-kept: kept"] {
            args.extend(["--header", header]);
        }
        let answer = get(&shop, to, &args, version);
        let (seen, told) = (&answer["last"]["body"]["headers"], &answer["last"]["headers"]);
        assert_eq!(
            json!([
                seen["x-set"],
                seen["x-fresh"],
                seen["x-add"],
                seen["x-gone"],
                seen["x-kept"]
            ]),
            json!(["new", "fresh", "one, more", null, "kept"]),
            "{case}: {answer}"
        );
        assert_eq!(
            json!([told["content-type"], told["x-answer"], told["date"]]),
            json!(["text/changed", "yes-it-is", null]),
            "{case}: {answer}"
        );
    }
}

#[test]
fn grpc_keeps_trailers_and_streams_message_by_message() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::GRPC, shop::HTTP, shop::UNNAMED_HTTP]) {
        let place = case.split(' ').next().unwrap();
        let unary = get(
            &shop,
            to,
            &[
                "--host",
                place,
                "--grpc",
                "--body",
                "5000",
                "--path",
                "/pkg.Service/Call",
            ],
            &[],
        );
        assert_eq!(unary["last"]["trailers"]["grpc-status"], "0", "{case}: {unary}");
        assert_eq!(unary["last"]["body_bytes"], 5005, "{case}: {unary}");
        let to = to.to_string();
        let stream = shop
            .client
            .podkit(&["grpc-stream", "--to", &to, "--host", place])
            .unwrap();
        assert_eq!(stream["ok"], true, "{case}: {stream}");
        assert_eq!(
            (&stream["rounds"], &stream["grpc_status"]),
            (&json!(20), &json!("0")),
            "{case}: {stream}"
        );
    }
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::HTTP, shop::UNNAMED_HTTP]) {
        let place = case.split(' ').next().unwrap();
        let head = format!(
            "GET /upgrade HTTP/1.1\\r\\nhost: {place}\\r\\nconnection: keep-alive, Upgrade\\r\\nupgrade: websocket\\r\\n\\r\\n"
        );
        let answer = shop
            .raw(to, &[&head, "first", "\\x00second"], &["--half-close"])
            .unwrap();
        let reply = answer["reply"].as_str().unwrap();
        assert!(reply.starts_with("HTTP/1.1 101 "), "{case}: {answer}");
        assert!(
            reply.to_lowercase().contains("upgrade: websocket"),
            "{case}: {answer}"
        );
        assert!(reply.ends_with("first\0second"), "{case}: {answer}");
        assert_eq!(answer["closed"], "eof", "{case}: {answer}");
    }
}

#[test]
fn a_body_waits_for_100_continue() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::HTTP, shop::UNNAMED_HTTP]) {
        let place = case.split(' ').next().unwrap();
        let head = format!(
            "POST / HTTP/1.1\\r\\nhost: {place}\\r\\ncontent-length: 5\\r\\nexpect: 100-continue\\r\\n\\r\\n"
        );
        let answer = shop.raw(to, &[&head], &["--silence-ms", "700"]).unwrap();
        assert!(
            answer["reply"].as_str().unwrap().starts_with("HTTP/1.1 100 "),
            "{case}: {answer}"
        );
        let answer = shop.raw(to, &[&head, "hello"], &[]).unwrap();
        let reply = answer["reply"].as_str().unwrap();
        assert!(
            reply.contains("HTTP/1.1 200 OK") && reply.contains("\"body_bytes\":5"),
            "{case}: {answer}"
        );
    }
}

#[test]
fn bodies_of_64_mib_pass_both_ways_in_bounded_memory() {
    let shop = Shop::open().unwrap();
    let size = 64 * MIB;
    for (place, to) in [
        ("near", vips("near", shop::HTTP)[0]),
        ("far", vips("far", shop::HTTP)[1]),
    ] {
        for version in VERSIONS {
            let case = format!("{place} {version:?}");
            let before = [shop.resident(0).unwrap(), shop.resident(1).unwrap()];
            let (bytes, path) = (size.to_string(), format!("/bytes/{size}"));
            let (far_peak, (near_peak, (up, down))) = peak_while(shop.agents[1].proc.pid(), || {
                peak_while(shop.agents[0].proc.pid(), || {
                    let common = ["--host", place, "--timeout-ms", "60000"];
                    let up = [&common[..], &["--method", "POST", "--body", &bytes]].concat();
                    let down = [&common[..], &["--path", &path]].concat();
                    Ok((get(&shop, to, &up, version), get(&shop, to, &down, version)))
                })
            })
            .unwrap();
            assert_eq!(up["last"]["body"]["body_bytes"], size, "{case}: {up}");
            assert_eq!(down["last"]["body_bytes"], size, "{case}: {}", down["errors"]);
            for (peak, before) in [near_peak, far_peak].iter().zip(before) {
                assert!(*peak < before + 32 * MIB, "{case}: {before} grew to {peak}");
            }
        }
    }
}

#[test]
fn answers_without_a_body_keep_the_connection() {
    let shop = Shop::open().unwrap();
    for (case, place, to, version) in cases(&[shop::HTTP]) {
        let three = ["--host", &place, "--count", "3", "--keepalive"];
        let head = get(
            &shop,
            to,
            &[&three[..], &["--method", "HEAD", "--path", "/bytes/1000"]].concat(),
            version,
        );
        assert_eq!(head["statuses"]["200"], 3, "{case}: {head}");
        assert_eq!(head["last"]["body_bytes"], 0, "{case}: {head}");
        assert_eq!(
            head["last"]["headers"]["content-length"], "1000",
            "{case}: {head}"
        );
        for status in ["204", "304"] {
            let path = format!("/status/{status}");
            let answer = get(&shop, to, &[&three[..], &["--path", &path]].concat(), version);
            assert_eq!(answer["statuses"][status], 3, "{case}: {answer}");
            assert_eq!(answer["last"]["body_bytes"], 0, "{case}: {answer}");
        }
    }
}

#[test]
fn http_1_0_is_answered_and_closed_and_never_chunked() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::HTTP, shop::UNNAMED_HTTP]) {
        let place = case.split(' ').next().unwrap();
        for path in ["/", "/stream/3/10"] {
            let request = format!("GET {path} HTTP/1.0\\r\\nhost: {place}\\r\\n\\r\\n");
            let answer = shop.raw(to, &[&request], &["--silence-ms", "3000"]).unwrap();
            let reply = answer["reply"].as_str().unwrap().to_lowercase();
            assert!(
                reply.starts_with("http/1.0 200") || reply.starts_with("http/1.1 200"),
                "{case}: {answer}"
            );
            assert!(!reply.contains("transfer-encoding"), "{case}: {answer}");
            assert_eq!(answer["closed"], "eof", "{case}: {answer}");
        }
    }
}

#[test]
fn every_request_has_an_id_and_keeps_the_one_it_came_with() {
    let shop = Shop::open().unwrap();
    for (case, place, to, version) in cases(&[shop::HTTP, shop::UNNAMED_HTTP]) {
        let id = || {
            let answer = get(&shop, to, &["--host", &place], version);
            answer["last"]["body"]["headers"]["x-request-id"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let (first, second) = (id(), id());
        assert_eq!(first.len(), 36, "{case}: {first:?}");
        assert_ne!(first, second, "{case}");
        let answer = get(
            &shop,
            to,
            &["--host", &place, "--header", "x-request-id: mine"],
            version,
        );
        assert_eq!(
            answer["last"]["body"]["headers"]["x-request-id"], "mine",
            "{case}: {answer}"
        );
    }
}
