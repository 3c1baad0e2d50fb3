//! A mesh from YAML, for tests.

use crate::model::service::Endpoint;
use crate::model::snapshot::{MeshSettings, Snapshot, Target};

use crate::routing::{
    ConnectionFacts, ConnectionPlan, Decision, Draws, HeaderView, Opening, PickDraws, Refusal, RequestFacts,
    RoutePlan, route_connection, route_request,
};
use crate::state::{Change, State};
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// The documents of a YAML text.
pub(crate) fn documents(yaml: &str) -> Vec<Value> {
    yaml.split("\n---\n")
        .filter(|d| !d.trim().is_empty())
        .map(|d| serde_saphyr::from_str(d).unwrap_or_else(|e| panic!("{e}\n{d}")))
        .collect()
}

/// The `n`th of numbers that are spread evenly over all that a draw may be: a test's chance.
pub(crate) fn draw(n: u32) -> u32 {
    n.wrapping_mul(2_654_435_761)
}

/// What a balancer draws in this turn.
pub(crate) fn pick_draws(turn: u32) -> PickDraws {
    PickDraws {
        first: draw(turn * 3),
        second: draw(turn * 3 + 1),
        locality: draw(turn * 3 + 2),
    }
}

/// A complete listing of these documents; `file.yaml:<n>` is where document n stands.
pub(crate) fn list(state: &mut State, objects: &[Value]) -> bool {
    let mut changed = state.apply(Change::Init);
    for (i, object) in objects.iter().enumerate() {
        let origin = format!("file.yaml:{i}");
        changed |= state.apply(Change::Apply {
            object: object.clone(),
            origin,
        });
    }
    changed | state.apply(Change::InitDone)
}

/// A state that knows these documents.
pub(crate) fn state(yaml: &str) -> State {
    let mut state = State::new(MeshSettings::default());
    list(&mut state, &documents(yaml));
    state
}

/// The weather application: two versions of `forecast`, a client, an opaque database and a headless service.
pub(crate) const WEATHER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: weather, labels: {heddle.io/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: frontend, namespace: weather, labels: {app: frontend, version: v1}}
spec: {nodeName: node-1, serviceAccountName: frontend}
status: {podIPs: [{ip: 10.1.0.1}, {ip: "fd00:1::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: forecast-v1, namespace: weather, labels: {app: forecast, version: v1}}
spec:
  nodeName: node-1
  containers:
  - ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {port: web, path: /}}
status: {podIPs: [{ip: 10.1.0.2}, {ip: "fd00:1::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: forecast-v2, namespace: weather, labels: {app: forecast, version: v2}}
spec:
  nodeName: node-2
  containers:
  - ports: [{name: web, containerPort: 8080}]
status: {podIPs: [{ip: 10.2.0.2}, {ip: "fd00:2::2"}]}
---
apiVersion: v1
kind: Service
metadata: {name: forecast, namespace: weather}
spec:
  clusterIPs: [10.96.0.1, "fd00:96::1"]
  selector: {app: forecast}
  ports: [{name: http, port: 80, targetPort: web}, {name: http-alt, port: 8081, targetPort: web}]
---
apiVersion: v1
kind: Service
metadata: {name: database, namespace: weather}
spec:
  clusterIP: 10.96.0.2
  selector: {app: forecast}
  ports: [{name: tcp, port: 5432, targetPort: 5432}]
---
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: weather}
spec:
  clusterIP: None
  selector: {app: forecast}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: weather}
spec:
  clusterIP: 10.96.0.3
  selector: {app: nobody}
  ports: [{name: http, port: 80}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: forecast, namespace: weather}
spec:
  host: forecast
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
---
apiVersion: v1
kind: Pod
metadata: {name: visitor, namespace: other, labels: {app: visitor}}
spec: {nodeName: node-1}
status: {podIP: 10.1.0.9}
"#;

/// [`WEATHER`] with a VirtualService whose `spec.http` is this flow-style YAML.
pub(crate) fn with_routes(http: &str) -> Arc<Snapshot> {
    let mut state = state(&format!("{WEATHER}\n---\n{}", virtual_service("routes", http)));
    assert_eq!(state.problems(), []);
    state.snapshot()
}

/// A VirtualService for `forecast`.
pub(crate) fn virtual_service(name: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: weather}}\nspec: {{hosts: [forecast], http: {http}}}"
    )
}

/// Header fields of a test request.
pub(crate) struct Fields<'a>(pub(crate) &'a [(&'a str, &'a str)]);

impl HeaderView for Fields<'_> {
    fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
        let values: Vec<&str> = self
            .0
            .iter()
            .filter(|(n, _)| *n == name)
            .map(|(_, v)| *v)
            .collect();
        if values.is_empty() {
            None
        } else {
            Some(values.join(",").into())
        }
    }
}

/// A request that tests vary.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) method: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) draws: Draws,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            from: "10.1.0.1",
            to: "10.96.0.1:80",
            method: "GET",
            authority: "forecast",
            path: "/",
            headers: &[],
            draws: Draws::default(),
        }
    }
}

impl Request<'_> {
    /// Runs `f` on the request's facts.
    pub(crate) fn facts<T>(&self, snapshot: &Snapshot, f: impl FnOnce(&RequestFacts<'_>) -> T) -> T {
        let to: std::net::SocketAddr = self.to.parse().unwrap();
        let client = snapshot.workload_by_ip(self.from.parse().unwrap()).map(|w| &**w);
        let target: Target = snapshot.target_for(to, client);
        let facts = RequestFacts {
            gateway: None,
            dialled: Some(to),
            client,
            target: &target,
            port: to.port(),
            method: self.method,
            scheme: "http",
            authority: self.authority,
            path: self.path,
            headers: &Fields(self.headers),
        };
        f(&facts)
    }

    pub(crate) fn decide(&self, snapshot: &Snapshot) -> Decision {
        self.facts(snapshot, |facts| route_request(snapshot, facts, self.draws))
    }

    /// The plan of a request that is forwarded.
    pub(crate) fn plan(&self, snapshot: &Snapshot) -> RoutePlan {
        match self.decide(snapshot) {
            Decision::Forward(plan) => plan,
            other => panic!("{other:?}"),
        }
    }

    /// `rule name`, or `default`, or `status flag`.
    pub(crate) fn outcome(&self, snapshot: &Snapshot) -> String {
        match self.decide(snapshot) {
            Decision::Forward(plan) => plan
                .rule
                .as_ref()
                .map_or("default".into(), |m| m.rule().name.to_string()),
            Decision::Answer(answer) => match answer.location {
                Some(location) => format!("{} {location}", answer.status),
                None => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
            },
            Decision::Refuse(refusal) => format!("{} {}", refusal.status, refusal.flag),
        }
    }
}

/// A connection that tests vary.
#[derive(Clone, Copy)]
pub(crate) struct Dial<'a> {
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) opening: Opening<'a>,
    pub(crate) draw: u32,
}

impl Default for Dial<'_> {
    fn default() -> Self {
        Self {
            from: "10.1.0.1",
            to: "10.96.0.1:80",
            opening: Opening::Bytes,
            draw: 0,
        }
    }
}

impl Dial<'_> {
    /// Runs `f` on the connection's facts.
    pub(crate) fn facts<T>(&self, snapshot: &Snapshot, f: impl FnOnce(&ConnectionFacts<'_>) -> T) -> T {
        let original: std::net::SocketAddr = self.to.parse().unwrap();
        let source = self.from.parse().unwrap();
        let client = snapshot.workload_by_ip(source).map(|w| &**w);
        let target = snapshot.target_for(original, client);
        f(&ConnectionFacts {
            client,
            source: Some(source),
            gateway: None,
            target: &target,
            original,
            port: original.port(),
            opening: self.opening,
        })
    }

    pub(crate) fn decide(&self, snapshot: &Snapshot) -> Result<ConnectionPlan, Refusal> {
        self.facts(snapshot, |facts| route_connection(snapshot, facts, self.draw))
    }

    /// Addresses of the endpoints, or the flag of the refusal.
    pub(crate) fn outcome(&self, snapshot: &Snapshot) -> String {
        match self.decide(snapshot) {
            Ok(plan) => addrs(&plan.upstream.endpoints).join(" "),
            Err(refusal) => refusal.flag.to_owned(),
        }
    }
}

/// Addresses of endpoints.
pub(crate) fn addrs(endpoints: &[Arc<Endpoint>]) -> Vec<String> {
    endpoints.iter().map(|e| e.addr.to_string()).collect()
}
