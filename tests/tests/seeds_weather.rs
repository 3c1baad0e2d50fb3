//! The guide of the Weather Forecast application, chapter by chapter: canary, conditional release, and the resilience
//! chapter of the repository that it sends its readers to.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::guide::{CLIENT, Guide};
use mesh_tests::podkit::last_json;
use mesh_tests::seed;
use serde_json::{Value, json};
use std::time::Duration;

const CHROME: &str =
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36";
const FIREFOX: &str = "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0";

/// The application with every version that the guide deploys in the end.
fn weather() -> Guide {
    let frontend: &[&str] = &[
        "frontend",
        "--forecast-address",
        "10.96.2.3:3002",
        "--advertisement-address",
        "10.96.2.2:3003",
    ];
    let v2 = [
        "forecast",
        "--version",
        "v2",
        "--recommendation-address",
        "10.96.2.4:3005",
    ];
    let app = "weather-apps";
    let guide = Guide::of("weather")
        .pod(1, "frontend-v1", "frontend", "v1")
        .runs(app, frontend)
        .pod(2, "frontend-v2", "frontend", "v2")
        .runs(app, frontend)
        .pod(2, "advertisement-v1", "advertisement", "v1")
        .runs(app, &["advertisement"])
        .pod(2, "forecast-v1", "forecast", "v1")
        .runs(app, &["forecast"])
        .pod(1, "forecast-v2", "forecast", "v2")
        .runs(app, &v2)
        .pod(1, "recommendation-v1", "recommendation", "v1")
        .runs(app, &["recommendation"])
        .service("frontend", 1, 3000, 3000, "http")
        .service("advertisement", 2, 3003, 3003, "grpc")
        .service("forecast", 3, 3002, 3002, "http")
        .service("recommendation", 4, 3005, 3005, "http")
        .start()
        .unwrap();
    // The other way round the rules lead nowhere for a moment, and the agents say so.
    guide
        .apply("31-dr.yaml", seed!("destination-rule-v1.yaml"))
        .unwrap();
    guide
        .apply("30-vs.yaml", seed!("virtual-service-v1.yaml"))
        .unwrap();
    guide
}

/// How many of these visits of the page were answered by each version of forecast.
fn pages(guide: &Guide, count: &str, more: &[&str]) -> Value {
    let answer = guide
        .curl(CLIENT, "frontend", &[&["--count", count][..], more].concat())
        .unwrap();
    assert_eq!(
        answer["statuses"],
        json!({"200": count.parse::<u64>().unwrap()}),
        "{answer}"
    );
    answer["fields"].clone()
}

/// The objects for all services, with the one file of forecast in the place of its part.
fn only_forecast(all: &str, forecast: &str) -> String {
    let others = all
        .split("\n---\n")
        .filter(|document| !document.contains("name: forecast"));
    let mut documents: Vec<&str> = others.collect();
    documents.push(forecast);
    documents.join("\n---\n")
}

/// S116 to S121.
#[test]
fn a_canary_moves_from_none_to_half_to_all_and_nobody_notices() {
    let guide = weather();
    let vs = |forecast| only_forecast(seed!("virtual-service-v1.yaml"), forecast);
    assert_eq!(pages(&guide, "20", &[]), json!({"v1": 20}));
    let mut load = guide.load("frontend", "50", &[]).unwrap();
    let subsets = only_forecast(
        seed!("destination-rule-v1.yaml"),
        seed!("forecast-v2-destination.yaml"),
    );
    guide.apply("31-dr.yaml", &subsets).unwrap();
    assert_eq!(
        pages(&guide, "20", &[]),
        json!({"v1": 20}),
        "subsets alone move nothing"
    );
    guide
        .apply("30-vs.yaml", &vs(seed!("vs-forecast-weight-based-50.yaml")))
        .unwrap();
    let half = pages(&guide, "200", &[]);
    // Seven standard deviations of 7.
    assert!((50..=150).contains(&half["v2"].as_u64().unwrap()), "{half}");
    guide
        .apply("30-vs.yaml", &vs(seed!("vs-forecast-weight-based-v2.yaml")))
        .unwrap();
    let page = guide.curl(CLIENT, "frontend", &["--count", "20"]).unwrap();
    assert_eq!(page["fields"], json!({"v2": 20}));
    assert_eq!(
        page["last"]["body"]["recommendation"]["carry"], "an umbrella",
        "{page}"
    );
    guide.write_pods(&["forecast-v1"]).unwrap();
    eventually("forecast v1 to be gone", Duration::from_secs(5), || {
        let status = guide.agents[1].spec.heddle_json(&["status"]).ok()?;
        let mut pods = status["pods"].as_array()?.iter();
        pods.all(|pod| pod["pod"] != "weather/forecast-v1").then_some(())
    })
    .unwrap();
    assert_eq!(pages(&guide, "20", &[]), json!({"v2": 20}));
    load.stop(Duration::from_secs(15)).unwrap();
    let summary = last_json(&load.stdout()).unwrap();
    assert_eq!(summary["statuses"]["200"], summary["sent"], "{summary}");
    assert!(summary["sent"].as_u64() > Some(10), "{summary}");
}

/// S123, S125: by the browser, whose header frontend hands on; by the version of who asks.
#[test]
fn a_release_is_for_some_browsers_or_for_the_callers_of_one_version() {
    let guide = weather();
    let subsets = only_forecast(
        seed!("destination-rule-v1.yaml"),
        seed!("forecast-v2-destination.yaml"),
    )
    .replace(
        "host: frontend\n  subsets:\n",
        "host: frontend\n  subsets:\n  - name: v2\n    labels:\n      version: v2\n",
    );
    guide.apply("31-dr.yaml", &subsets).unwrap();
    let vs = only_forecast(
        seed!("virtual-service-v1.yaml"),
        seed!("vs-forecast-header-based.yaml"),
    );
    guide.apply("30-vs.yaml", &vs).unwrap();
    assert_eq!(pages(&guide, "20", &["--header", CHROME]), json!({"v2": 20}));
    assert_eq!(pages(&guide, "20", &["--header", FIREFOX]), json!({"v1": 20}));
    let vs = only_forecast(
        seed!("virtual-service-v1.yaml"),
        seed!("vs-forecast-multiservice-release.yaml"),
    );
    guide.apply("30-vs.yaml", &vs).unwrap();
    assert_eq!(pages(&guide, "20", &[]), json!({"v1": 20}));
    let front = vs.replace(
        "host: frontend\n        subset: v1",
        "host: frontend\n        subset: v2",
    );
    guide.apply("30-vs.yaml", &front).unwrap();
    assert_eq!(pages(&guide, "20", &[]), json!({"v2": 20}));
}

/// S206: the chain behind is slow, and the caller is told after its own time.
#[test]
fn a_slow_dependency_costs_the_callers_timeout_and_no_more() {
    let guide = weather();
    let subsets = only_forecast(
        seed!("destination-rule-v1.yaml"),
        seed!("forecast-v2-destination.yaml"),
    );
    guide.apply("31-dr.yaml", &subsets).unwrap();
    let vs = only_forecast(seed!("virtual-service-v1.yaml"), seed!("vs-timeout.yaml"));
    guide.apply("30-vs.yaml", &vs).unwrap();
    let answer = guide.curl(CLIENT, "forecast", &["--path", "/weather"]).unwrap();
    assert_eq!(answer["statuses"], json!({"504": 1}), "{answer}");
    let took = answer["max_ms"].as_f64().unwrap();
    assert!((990.0..2_500.0).contains(&took), "{answer}");
    let slow = guide.curl(CLIENT, "recommendation", &[]).unwrap();
    assert_eq!(slow["statuses"], json!({"200": 1}), "{slow}");
    assert!(slow["max_ms"].as_f64() > Some(3_990.0), "{slow}");
}

/// Two pods of advertisement that do as they are asked, for the chapter on resilience.
fn advertisement() -> Guide {
    let guide = Guide::of("weather")
        .pod(1, "near", "advertisement", "v1")
        .http(3003)
        .pod(2, "far", "advertisement", "v1")
        .http(3003)
        .pod(2, "forecast-v1", "forecast", "v1")
        .http(3002)
        .service("advertisement", 2, 3003, 3003, "http")
        .service("forecast", 3, 3002, 3002, "http")
        .start()
        .unwrap();
    let mut all = seed!("destination-rule-v1.yaml").split("\n---\n");
    let own = all.find(|rule| rule.contains("name: advertisement-dr"));
    guide.apply("31-dr.yaml", own.unwrap()).unwrap();
    guide
}

/// S200, S203.
#[test]
fn requests_go_round_at_random_or_stay_where_their_cookie_says() {
    let guide = advertisement();
    guide
        .apply("31-dr.yaml", seed!("dr-advertisement-round-robin.yaml"))
        .unwrap();
    let even = guide.curl(CLIENT, "advertisement", &["--count", "100"]).unwrap();
    // Each worker of the agent goes round by itself.
    let near = even["fields"]["near"].as_u64().unwrap();
    assert!((45..=55).contains(&near), "{even}");
    guide
        .apply("31-dr.yaml", seed!("dr-advertisement-random.yaml"))
        .unwrap();
    let random = guide.curl(CLIENT, "advertisement", &["--count", "200"]).unwrap();
    let near = random["fields"]["near"].as_u64().unwrap();
    assert!((50..=150).contains(&near), "{random}");
    guide
        .apply("31-dr.yaml", seed!("dr-advertisement-consistent-hash.yaml"))
        .unwrap();
    let first = guide.curl(CLIENT, "advertisement", &[]).unwrap();
    let cookie = first["last"]["headers"]["set-cookie"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(cookie.starts_with("user=") && cookie.contains("60"), "{first}");
    let own = format!("cookie: {}", cookie.split(';').next().unwrap());
    let same = guide
        .curl(CLIENT, "advertisement", &["--count", "30", "--header", &own])
        .unwrap();
    let server = first["last"]["body"]["server"].as_str().unwrap();
    assert_eq!(same["fields"], json!({server: 30}), "{first} {same}");
    let mut met = 0;
    for n in 0..20 {
        let other = format!("cookie: user=visitor-{n}");
        let answer = guide
            .curl(CLIENT, "advertisement", &["--header", &other])
            .unwrap();
        met += u32::from(answer["fields"]["near"] == 1);
    }
    assert!((1..20).contains(&met), "all of 20 cookies lead to one pod");
}

/// S204, S205, S207 to S209.
#[test]
fn faults_retries_redirects_and_rewrites_are_as_the_guide_shows_them() {
    let guide = advertisement();
    guide
        .apply("30-vs.yaml", seed!("vs-advertisement-fault-delay.yaml"))
        .unwrap();
    let slow = guide.curl(CLIENT, "advertisement", &[]).unwrap();
    assert_eq!(slow["statuses"], json!({"200": 1}), "{slow}");
    assert!(
        (2_990.0..4_500.0).contains(&slow["max_ms"].as_f64().unwrap()),
        "{slow}"
    );
    guide
        .apply("30-vs.yaml", seed!("vs-advertisement-fault-abort.yaml"))
        .unwrap();
    let aborted = guide.curl(CLIENT, "advertisement", &["--count", "10"]).unwrap();
    assert_eq!(aborted["statuses"], json!({"521": 10}), "{aborted}");
    // The field of the repository's old files.
    let old = seed!("vs-advertisement-fault-abort.yaml").replace(
        "        percentage:\n          value: 100\n",
        "        percent: 100\n",
    );
    guide
        .config
        .write(
            "30-vs.yaml",
            old.replacen("metadata:\n", "metadata:\n  namespace: weather\n", 1),
        )
        .unwrap();
    let aborted = guide.curl(CLIENT, "advertisement", &["--count", "10"]).unwrap();
    assert_eq!(aborted["statuses"], json!({"521": 10}), "{aborted}");

    guide
        .apply("30-vs.yaml", seed!("vs-advertisement-retry.yaml"))
        .unwrap();
    let id = ["--path", "/status/503", "--header", "x-test-id: retried"];
    let failed = guide.curl(CLIENT, "advertisement", &id).unwrap();
    assert_eq!(failed["statuses"], json!({"503": 1}), "{failed}");
    let seen = |pod| guide.requests_at(pod, 3003, "retried").unwrap();
    assert_eq!(seen("near") + seen("far"), 6, "one and five retries");

    guide
        .apply("30-vs.yaml", seed!("vs-advertisement-redirect.yaml"))
        .unwrap();
    let moved = guide.curl(CLIENT, "advertisement", &["--path", "/ad"]).unwrap();
    assert_eq!(moved["statuses"], json!({"301": 1}), "{moved}");
    assert_eq!(
        moved["last"]["headers"]["location"], "http://advertisement.weather.svc.cluster.local/maintenanced",
        "{moved}"
    );
    let left = guide.curl(CLIENT, "advertisement", &["--path", "/else"]).unwrap();
    assert_eq!(left["statuses"], json!({"200": 1}), "{left}");

    guide
        .apply("30-vs.yaml", seed!("vs-advertisement-rewrite.yaml"))
        .unwrap();
    let rewritten = guide
        .curl(CLIENT, "advertisement", &["--path", "/demo/ad?city=hangzhou"])
        .unwrap();
    assert_eq!(rewritten["last"]["body"]["path"], "/ad", "{rewritten}");
    assert_eq!(rewritten["last"]["body"]["query"], "city=hangzhou", "{rewritten}");
    let other = guide.curl(CLIENT, "advertisement", &["--path", "/ad"]).unwrap();
    assert_eq!(other["statuses"], json!({"404": 1}), "{other}");
}

/// S210: more at a time than the pool and the queue take are answered at once, with the flag `UO`.
#[test]
fn a_circuit_breaker_answers_what_is_too_much_at_a_time_and_lets_the_rest_through() {
    let guide = advertisement();
    guide
        .apply("31-dr.yaml", seed!("dr-circuit-breaking.yaml"))
        .unwrap();
    let calm = guide.curl(CLIENT, "advertisement", &["--count", "20"]).unwrap();
    assert_eq!(calm["statuses"], json!({"200": 20}), "{calm}");
    let mut load = guide
        .load("advertisement", "60", &["--path", "/slow/400", "--seconds", "3"])
        .unwrap();
    load.wait(Duration::from_secs(20)).unwrap();
    let summary = last_json(&load.stdout()).unwrap();
    let of = |status: &str| summary["statuses"][status].as_u64().unwrap_or(0);
    assert!(of("503") > 30 && of("200") > 10, "{summary}");
    assert_eq!(
        of("503") + of("200"),
        summary["sent"].as_u64().unwrap(),
        "{summary}"
    );
    let labels = [
        ("reporter", "source"),
        ("response_code", "503"),
        ("response_flags", "UO"),
    ];
    assert_eq!(
        guide.sum("istio_requests_total", &labels).unwrap(),
        of("503") as f64
    );
    let after = guide.curl(CLIENT, "advertisement", &["--count", "20"]).unwrap();
    assert_eq!(after["statuses"], json!({"200": 20}), "{after}");
}

/// S211, S212, S222: a pod that fails is left out; `maxEjectionPercent` of the guide would forbid it with two pods only
/// if Envoy's rule of at least one did not hold.
#[test]
fn a_pod_that_fails_twice_is_left_out() {
    let guide = advertisement();
    let ejections = || guide.sum("heddle_outlier_ejections_total", &[]).unwrap();
    for (n, dr) in [
        seed!("dr-outlier-detection.yaml").to_owned(),
        seed!("dr-outlier-detection.yaml")
            .replace("consecutive5xxErrors: 2", "consecutiveErrors: 2")
            .replace("maxEjectionPercent: 40", "maxEjectionPercent: 100"),
    ]
    .into_iter()
    .enumerate()
    {
        // What has been counted is forgotten with the rule that wanted it.
        guide
            .apply("31-dr.yaml", seed!("forecast-v2-destination.yaml"))
            .unwrap();
        let text = dr.replacen("metadata:\n", "metadata:\n  namespace: weather\n", 1);
        guide.config.write("31-dr.yaml", text).unwrap();
        let before = ejections();
        // The old field counted answers of a gateway that gets none.
        let status = ["/status/500", "/status/503"][n];
        // Answers of 500 come from whoever is asked; without retries, as the guide's own clients see them.
        guide.apply("30-vs.yaml", &once(n)).unwrap();
        let failing = guide
            .curl(CLIENT, "advertisement", &["--count", "40", "--path", status])
            .unwrap();
        assert_eq!(
            failing["statuses"]["500"].as_u64().unwrap_or(0)
                + failing["statuses"]["503"].as_u64().unwrap_or(0),
            40,
            "{failing}"
        );
        assert!(ejections() > before, "nobody was left out: {failing}");
    }
}

/// A route without retries; `n` makes each differ from the one before.
fn once(n: usize) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: advertisement-route\nspec:\n  hosts:\n  - advertisement\n  http:\n  - name: once-{n}\n    retries:\n      attempts: 0\n    route:\n    - destination:\n        host: advertisement\n        subset: v1\n"
    )
}

/// S216: what a Sidecar does not list is not there for the pods that it selects.
#[test]
fn a_sidecar_leaves_its_pods_what_it_lists() {
    let guide = Guide::of("weather")
        .pod(1, "near", "advertisement", "v1")
        .http(3003)
        .pod(2, "forecast-v1", "forecast", "v1")
        .http(3002)
        .service("advertisement", 2, 3003, 3003, "http")
        .service("forecast", 3, 3002, 3002, "http")
        .agent_args(&["--outbound-traffic-policy", "REGISTRY_ONLY"])
        .start()
        .unwrap();
    for service in ["advertisement", "forecast"] {
        let answer = guide.curl(CLIENT, service, &[]).unwrap();
        assert_eq!(answer["statuses"], json!({"200": 1}), "{service}: {answer}");
    }
    guide
        .apply("40-sidecar.yaml", seed!("sidecar-frontend.yaml"))
        .unwrap();
    let hidden = eventually("forecast to be hidden", Duration::from_secs(5), || {
        let answer = guide.curl(CLIENT, "forecast", &[]).ok()?;
        (answer["statuses"]["200"].is_null()).then_some(answer)
    });
    hidden.unwrap();
    let seen = guide.curl(CLIENT, "advertisement", &["--count", "5"]).unwrap();
    assert_eq!(seen["statuses"], json!({"200": 5}), "{seen}");
    let other = guide.curl("near", "forecast", &[]).unwrap();
    assert_eq!(other["statuses"], json!({"200": 1}), "not selected: {other}");
}
