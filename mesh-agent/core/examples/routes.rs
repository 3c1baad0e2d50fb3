//! What routes cost, beside their goals: choosing one, keeping one, changing one of many. Run by `cargo xtask bench --routes`.

use mesh_core::model::snapshot::{MeshSettings, Snapshot};
use mesh_core::routing::{Decision, Draws, HeaderView, RequestFacts, route_request};
use mesh_core::state::{Change, State};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// As the agent has it: what a rule takes depends on it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut held = true;
    let mut row = |what: &str, value: f64, goal: f64, unit: &str| {
        held &= value <= goal;
        let mark = if value <= goal { "✔" } else { "✘" };
        println!("{mark} {what:<75} {value:>9.2} {unit:<4} goal ≤ {goal}");
    };
    // First: later the allocator has free memory, of which more is used without a trace.
    let kept = memory();
    let [attached, attached_p50, attached_p99] = attached();
    row(
        "route choice, 1 host, 10 rules, the last one matches",
        choice(1),
        1.0,
        "µs",
    );
    row(
        "route choice, 1,000 hosts, 10 rules each",
        choice(1_000),
        3.0,
        "µs",
    );
    row("memory of a simple rule (10,000 rules)", kept, 1.0, "KiB");
    let ruled: fn(usize, usize) -> Value = destination_rule;
    for (what, rules, changed) in [
        (
            "VirtualServices changes",
            virtual_service as fn(usize, usize) -> Value,
            virtual_service as _,
        ),
        ("DestinationRules changes", ruled, ruled),
        ("services with a DestinationRule changes", ruled, moved_slice),
    ] {
        let (p50, p99) = change(rules, changed);
        row(
            &format!("one of 5,000 {what}: new snapshot, p50"),
            p50,
            50.0,
            "ms",
        );
        row(
            &format!("one of 5,000 {what}: new snapshot, p99"),
            p99,
            500.0,
            "ms",
        );
    }
    row("5,000 services and HTTPRoutes: resident", attached, 100.0, "MiB");
    row(
        "one of 5,000 HTTPRoutes changes: new snapshot, p50",
        attached_p50,
        50.0,
        "ms",
    );
    row(
        "one of 5,000 HTTPRoutes changes: new snapshot, p99",
        attached_p99,
        500.0,
        "ms",
    );
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Fields;

impl HeaderView for Fields {
    fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
        (name == "x-user").then_some(Cow::Borrowed("somebody"))
    }
}

fn service(n: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}"), "namespace": "shop"},
        "spec": {"clusterIP": address(n), "ports": [{"name": "http", "port": 80}]},
    })
}

fn address(n: usize) -> String {
    format!("10.{}.{}.{}", 96 + n / 65_536, n / 256 % 256, n % 256)
}

fn slice(n: usize) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("s{n}-x"), "namespace": "shop", "labels": {"kubernetes.io/service-name": format!("s{n}")},
        },
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}],
    })
}

/// The slice of a service whose pod came back elsewhere.
fn moved_slice(n: usize, version: usize) -> Value {
    let mut slice = slice(n);
    slice["endpoints"][0]["addresses"][0] = format!("192.0.2.{}", version % 250 + 2).into();
    slice
}

fn destination_rule(n: usize, version: usize) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": format!("d{n}"), "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "host": format!("s{n}"), "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": version + 1}}},
            "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
        },
    })
}

/// Ten rules: by path, by header, by method.
fn virtual_service(n: usize, version: usize) -> Value {
    let rules: Vec<Value> = (0..10)
        .map(|rule| {
            let block = match rule % 3 {
                0 => json!({"uri": {"prefix": format!("/api/{rule}/")}}),
                1 => json!({"uri": {"exact": format!("/api/{rule}")}, "method": {"exact": "GET"}}),
                _ => json!({"headers": {"x-user": {"exact": format!("user-{rule}")}}}),
            };
            json!({
                "name": format!("rule-{rule}"), "match": [block], "timeout": format!("{}s", version + 1),
                "route": [{"destination": {"host": format!("s{n}")}}],
            })
        })
        .collect();
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": format!("v{n}"), "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"hosts": [format!("s{n}")], "http": rules},
    })
}

fn apply(state: &mut State, object: Value) {
    let origin = object["metadata"]["name"].to_string();
    state.apply(Change::Apply { object, origin });
}

fn services(count: usize) -> State {
    let mut state = State::for_node(MeshSettings::default(), "node");
    for n in 0..count {
        apply(&mut state, service(n));
        apply(&mut state, slice(n));
    }
    state
}

/// Microseconds for one choice: the best of several rounds, as others use the machine as well.
fn choice(hosts: usize) -> f64 {
    let mut state = services(hosts);
    for n in 0..hosts {
        apply(&mut state, virtual_service(n, 0));
    }
    let snapshot = state.snapshot();
    let authorities: Vec<String> = (0..hosts)
        .map(|n| format!("s{n}.shop.svc.cluster.local"))
        .collect();
    let rounds = (0..20).map(|_| round(&snapshot, &authorities));
    rounds.fold(f64::MAX, f64::min)
}

fn round(snapshot: &Snapshot, authorities: &[String]) -> f64 {
    let targets: Vec<_> = (0..authorities.len())
        .map(|n| snapshot.target(format!("{}:80", address(n)).parse().expect("an address")))
        .collect();
    let since = Instant::now();
    for i in 0..CHOICES {
        // A step that is coprime to the count, so that caches are not flattered.
        let n = i * 617 % authorities.len();
        let facts = RequestFacts {
            client: None,
            gateway: None,
            target: &targets[n],
            port: 80,
            dialled: None,
            method: "GET",
            scheme: "http",
            authority: &authorities[n],
            path: "/api/9/items?page=2",
            headers: &Fields,
        };
        let decision = black_box(route_request(snapshot, &facts, Draws::default()));
        assert!(matches!(decision, Decision::Forward(ref plan) if plan.rule.is_some()));
    }
    since.elapsed().as_secs_f64() * 1e6 / CHOICES as f64
}

/// KiB of resident memory for a rule, with everything that state and snapshot keep for it.
fn memory() -> f64 {
    let mut state = services(1_000);
    let _before = state.snapshot();
    let before = resident();
    for n in 0..1_000 {
        apply(&mut state, virtual_service(n, 0));
    }
    let _snapshot = state.snapshot();
    (resident() - before) / 10_000.0
}

/// Resident KiB of this process.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or_default() * 4.0
}

/// A route of Gateway API on a service, with two rules.
fn http_route(n: usize, version: usize) -> Value {
    let to = json!([{"name": format!("s{n}"), "port": 80}]);
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": format!("r{n}"), "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": format!("s{n}"), "port": 80}],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": format!("/api/{version}")}}], "backendRefs": to},
                {"backendRefs": to},
            ],
        },
    })
}

/// MiB that state and snapshot keep for 5,000 services with a route each; milliseconds from a route's change to the
/// snapshot with it.
fn attached() -> [f64; 3] {
    let before = resident();
    let mut state = services(5_000);
    for n in 0..5_000 {
        apply(&mut state, http_route(n, 0));
    }
    let _first = state.snapshot();
    let kept = (resident() - before) / 1024.0;
    let (p50, p99) = changes(&mut state, http_route);
    [kept, p50, p99]
}

/// Milliseconds from a change to the snapshot with it, where each service has one of `rules`.
fn change(rules: fn(usize, usize) -> Value, changed: fn(usize, usize) -> Value) -> (f64, f64) {
    let mut state = services(5_000);
    for n in 0..5_000 {
        apply(&mut state, rules(n, 0));
    }
    let _first = state.snapshot();
    changes(&mut state, changed)
}

fn changes(state: &mut State, object: fn(usize, usize) -> Value) -> (f64, f64) {
    let mut times: Vec<Duration> = (0..200)
        .map(|i| {
            let object = object(i * 617 % 5_000, i + 1);
            let since = Instant::now();
            apply(state, object);
            black_box(state.snapshot());
            since.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e3;
    (at(50), at(99))
}

const CHOICES: usize = 20_000;
