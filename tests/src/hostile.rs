//! Objects that no mesh should have to take, made from a seed: limits, cycles, thousands of rules, expressions that
//! explode, hosts that are none, duplicates, enormous numbers, wrong types. All are in the namespace `hostile`.

use serde_json::{Map, Value, json};

/// Their namespace.
pub const NAMESPACE: &str = "hostile";

/// An object, and what must become of it.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// The object.
    pub object: Value,
    /// What is wrong with it, for messages.
    pub what: &'static str,
    /// Whether it must be refused by name; others may be honoured.
    pub refused: bool,
}

/// What good traffic depends on, and hostile objects try to get.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Fully qualified host of a service.
    pub host: &'a str,
    /// Its address.
    pub address: &'a str,
}

/// As many objects, always the same for a seed.
#[must_use]
pub fn objects(seed: u64, count: usize, target: Target<'_>) -> Vec<Hostile> {
    let mut random = Random(seed | 1);
    (0..count).map(|n| one(n, &mut random, target)).collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap_or(0) % limit.max(1)
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

const ISTIO: &str = "networking.istio.io/v1";

fn object(api: &str, kind: &str, n: usize, spec: Value) -> Value {
    // Younger than whatever was there before: of two that want one host, the older has it.
    json!({"apiVersion": api, "kind": kind, "metadata": {
        "name": format!("hostile-{n}"), "namespace": NAMESPACE, "creationTimestamp": "2030-01-01T00:00:00Z"},
        "spec": spec})
}

fn virtual_service(n: usize, host: &str, http: Value) -> Value {
    object(ISTIO, "VirtualService", n, json!({"hosts": [host], "http": http}))
}

fn to(host: &str) -> Value {
    json!([{"destination": {"host": host}}])
}

fn one(n: usize, random: &mut Random, target: Target<'_>) -> Hostile {
    // Many small ones for each that is large.
    let (what, refused, object) = match n % 16 {
        _ if n % 250 == 7 => many_rules(n),
        0 => cycle(n),
        1 => expression(n, random),
        2 | 3 => host(n, random),
        4 => duplicate(n, target),
        5 | 6 => weight(n, random),
        7 => number(n, random),
        8 => deep(n),
        9 => subsets(n, random),
        10 => address(n, random, target),
        11 => attached(n, random, target),
        12 => name(n, random),
        13 => unknown(n, random),
        _ => mutated(n, random, target),
    };
    Hostile {
        object,
        what,
        refused,
    }
}

type Made = (&'static str, bool, Value);

fn many_rules(n: usize) -> Made {
    let rule =
        |i: usize| json!({"match": [{"uri": {"exact": format!("/{i}")}}], "directResponse": {"status": 418}});
    let rules: Vec<Value> = (0..10_000).map(rule).collect();
    // The last one is wrong: nothing of such an object may be kept.
    let mut rules = json!(rules);
    rules[9_999] = json!({"match": [{"uri": {"exact": "/"}}], "route": [{"destination": {"host": ""}}]});
    (
        "10,000 rules, of which the last is wrong",
        true,
        virtual_service(n, "many.example", rules),
    )
}

fn cycle(n: usize) -> Made {
    let next = format!("hostile-{}", n + 16);
    let http =
        json!([{"match": [{"uri": {"prefix": "/"}}], "delegate": {"name": next, "namespace": NAMESPACE}}]);
    let mut object = virtual_service(n, "cycle.example", http);
    if let Some(spec) = object["spec"].as_object_mut().filter(|_| n % 32 == 16) {
        spec.remove("hosts");
    }
    ("a chain or a cycle of delegates", false, object)
}

fn expression(n: usize, random: &mut Random) -> Made {
    let (refused, text) = random.of(&[
        (false, "(a+)+$".to_owned()),
        (false, "(a|a)*b".to_owned()),
        (false, "(.*a){20}".to_owned()),
        (true, "((((a{1,100}){1,100}){1,100}){1,100})".to_owned()),
        (true, "(?<!a)b".to_owned()),
        (true, "(a)\\1".to_owned()),
        (true, "(".repeat(2_000)),
        (true, "[z-a]".to_owned()),
        (true, "\\p{Klingon}".to_owned()),
    ]);
    let http = json!([{"match": [{"uri": {"regex": text}}], "route": to("expression.example")}]);
    (
        "an expression that explodes",
        refused,
        virtual_service(n, "expression.example", http),
    )
}

fn host(n: usize, random: &mut Random) -> Made {
    let host = random.of(&[
        "bücher.example".to_owned(),
        "xn--bcher-kva.\u{202e}example".to_owned(),
        "☃.example".to_owned(),
        format!("{}.example", "a".repeat(300)),
        "a..b".to_owned(),
        ".".to_owned(),
        String::new(),
        "-a.example".to_owned(),
        "a b.example".to_owned(),
        "*.*.example".to_owned(),
        "a.*.example".to_owned(),
        "a.example\0".to_owned(),
        "a.example/b".to_owned(),
        "a\r\nx: y".to_owned(),
        "\u{0}\u{feff}".to_owned(),
    ]);
    let object = match n % 2 {
        0 => virtual_service(n, &host, json!([{"route": to("a.example")}])),
        _ => object(
            ISTIO,
            "ServiceEntry",
            n,
            json!({"hosts": [host], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "resolution": "DNS"}),
        ),
    };
    ("a host that is none", true, object)
}

fn duplicate(n: usize, target: Target<'_>) -> Made {
    let http = json!([{"directResponse": {"status": 418}}]);
    (
        "a younger claim to a host",
        true,
        virtual_service(n, target.host, http),
    )
}

fn weight(n: usize, random: &mut Random) -> Made {
    let weight = random.of(&[
        json!(4_294_967_296_u64),
        json!(u64::MAX),
        json!(-1),
        json!(1e30),
        json!(0.5),
        json!("heavy"),
        json!([100]),
    ]);
    let route = json!([{"destination": {"host": "a.example"}, "weight": weight},
        {"destination": {"host": "b.example"}, "weight": 1}]);
    (
        "an impossible weight",
        true,
        virtual_service(n, "weight.example", json!([{"route": route}])),
    )
}

fn number(n: usize, random: &mut Random) -> Made {
    let (key, value) = random.of(&[
        ("timeout", json!("-1s")),
        ("timeout", json!("99999999999999999999h")),
        ("timeout", json!("soon")),
        ("timeout", json!({"seconds": -1})),
        ("retries", json!({"attempts": -1})),
        ("retries", json!({"attempts": 4_294_967_296_u64})),
        ("retries", json!({"attempts": 1, "perTryTimeout": "1y"})),
        (
            "fault",
            json!({"abort": {"httpStatus": 99, "percentage": {"value": 1}}}),
        ),
        (
            "fault",
            json!({"abort": {"httpStatus": 503, "percentage": {"value": 1e308}}}),
        ),
        (
            "fault",
            json!({"delay": {"fixedDelay": "-5s", "percentage": {"value": 1}}}),
        ),
        ("mirrorPercentage", json!({"value": -3})),
    ]);
    let mut rule = json!({"route": to("a.example"), "mirror": {"host": "a.example"}});
    rule[key] = value;
    (
        "a number out of every range",
        true,
        virtual_service(n, "number.example", json!([rule])),
    )
}

fn deep(n: usize) -> Made {
    let mut nest = json!("x");
    for _ in 0..100 {
        nest = json!({"match": [nest]});
    }
    let http = json!([{"match": [nest], "route": to("a.example")}]);
    ("deep nesting", true, virtual_service(n, "deep.example", http))
}

fn subsets(n: usize, random: &mut Random) -> Made {
    let spec = random.of(&[
        json!({"host": "a.example", "subsets": [{"name": "", "labels": {"a": "b"}}]}),
        json!({"host": "a.example", "subsets": {"name": "v1"}}),
        json!({"host": "a.example", "trafficPolicy": {"loadBalancer": {"simple": "FASTEST"}}}),
        json!({"host": "a.example", "trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": 7}}}}),
        json!({"host": "a.example", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": -1}}}}),
        json!({"host": "a.example", "trafficPolicy": {"outlierDetection": {"interval": "0s"}}}),
        json!({"host": "", "trafficPolicy": {}}),
        json!({"subsets": []}),
    ]);
    (
        "a DestinationRule that makes no sense",
        true,
        object(ISTIO, "DestinationRule", n, spec),
    )
}

fn address(n: usize, random: &mut Random, target: Target<'_>) -> Made {
    let (refused, address) = random.of(&[
        (false, json!([target.address])),
        (true, json!(["256.0.0.1"])),
        (true, json!(["10.0.0.0/33"])),
        (true, json!(["::1/200"])),
        (true, json!([{"ip": "10.0.0.1"}])),
        (true, json!(["http://10.0.0.1"])),
    ]);
    let spec = json!({"hosts": [format!("address-{n}.example")], "addresses": address, "resolution": "STATIC",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "endpoints": [{"address": "192.0.2.1"}]});
    (
        "an address that is another's, or none",
        refused,
        object(ISTIO, "ServiceEntry", n, spec),
    )
}

fn attached(n: usize, random: &mut Random, target: Target<'_>) -> Made {
    let (service, namespace) = target.host.split_once('.').unwrap_or((target.host, "default"));
    let namespace = namespace.split('.').next().unwrap_or_default();
    let parent = json!({"group": "", "kind": "Service", "name": service, "namespace": namespace});
    let (refused, rules) = random.of(&[
        (false, json!([{"filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 302, "hostname": "evil.example"}}]}])),
        (true, json!([{"matches": [{"path": {"type": "RegularExpression", "value": "(((("}}]}])),
        (true, json!([{"matches": [{"path": {"type": "Exact", "value": "no slash"}}]}])),
        (true, json!([{"backendRefs": [{"name": "a", "port": 70_000}]}])),
        (true, json!([{"filters": [{"type": "Nonsense"}]}])),
        (true, json!({"not": "a list"})),
    ]);
    (
        "a route on another's service",
        refused,
        object(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            n,
            json!({"parentRefs": [parent], "rules": rules}),
        ),
    )
}

fn name(n: usize, random: &mut Random) -> Made {
    let mut object = virtual_service(n, "name.example", json!([{"route": to("a.example")}]));
    object["metadata"]["name"] = random.of(&[json!(""), json!(7), json!(null), json!({"a": 1}), json!([])]);
    ("no name", true, object)
}

fn unknown(n: usize, random: &mut Random) -> Made {
    let http = json!([{"route": to("a.example")}]);
    let mut object = virtual_service(n, "unknown.example", http);
    let field = random.of(&["rote", "Match", "\u{202e}", "__proto__", "timeouts"]);
    object["spec"]["http"][0][field] = json!({"a": [1, 2, 3]});
    ("an unknown field", true, object)
}

/// A good object in which one place has another type.
fn mutated(n: usize, random: &mut Random, target: Target<'_>) -> Made {
    let http = json!([{"match": [{"uri": {"prefix": "/a"}, "headers": {"x": {"exact": "y"}}}], "timeout": "1s",
        "retries": {"attempts": 2, "retryOn": "5xx"}, "rewrite": {"uri": "/b"},
        "route": [{"destination": {"host": target.host, "port": {"number": 80}}, "weight": 100}]}]);
    let mut object = virtual_service(n, &format!("mutated-{n}.example"), http);
    let mut wrong = Map::new();
    wrong.insert("x".into(), json!([null, {"y": 1e300}]));
    let kinds = [
        json!(null),
        json!(true),
        json!(-7.25),
        json!("\u{0}"),
        json!([[[]]]),
        json!(wrong),
    ];
    let other = random.of(&kinds);
    replace(&mut object["spec"], random, other);
    ("one value of another type", false, object)
}

/// Puts `other` in some place of `value`.
fn replace(value: &mut Value, random: &mut Random, other: Value) {
    let inner: Vec<&mut Value> = match value {
        Value::Object(map) => map.values_mut().collect(),
        Value::Array(list) => list.iter_mut().collect(),
        _ => Vec::new(),
    };
    let chosen = random.below(inner.len() + 1);
    match inner.into_iter().nth(chosen) {
        Some(inner) => replace(inner, random, other),
        None => *value = other,
    }
}
