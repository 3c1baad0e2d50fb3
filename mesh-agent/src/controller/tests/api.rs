//! An API server in memory: list, watch, get, create, replace, apply, delete of any kind, and TokenReviews.

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

type Body = BoxBody<Bytes, Infallible>;

/// What the server holds.
pub(super) struct Api {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// Plural/namespace/name → object.
    objects: BTreeMap<String, Value>,
    /// Version, plural/namespace, type, object.
    log: Vec<(u64, String, &'static str, Value)>,
    /// Token → answer of a TokenReview, by audience.
    tokens: HashMap<String, (String, Value)>,
    writes: Vec<String>,
    down: bool,
}

impl Api {
    /// Listens on loopback.
    pub(super) async fn start() -> (Arc<Self>, kube::Client) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let api = Arc::new(Self {
            state: Mutex::default(),
            version: watch::Sender::new(1),
        });
        let served = Arc::clone(&api);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = Arc::clone(&served);
                tokio::spawn(async move {
                    let service = service_fn(|request| Arc::clone(&api).answer(request));
                    let _ended = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let config = kube::Config::new(uri.parse().unwrap());
        (api, kube::Client::try_from(config).unwrap())
    }

    /// A token that proves `user` for `audience`.
    pub(super) fn token(&self, token: &str, audience: &str, user: &str, extra: Value) {
        let user = json!({"username": user, "extra": extra});
        let answer = (audience.to_owned(), user);
        self.state.lock().tokens.insert(token.to_owned(), answer);
    }

    /// Makes or replaces an object at `plural/namespace/name`.
    pub(super) fn put(&self, path: &str, object: Value) {
        self.store(path, object);
    }

    pub(super) fn delete(&self, path: &str) {
        let mut state = self.state.lock();
        if let Some(object) = state.objects.remove(path) {
            self.record(&mut state, path, "DELETED", object);
        }
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Every write of clients: `VERB path`.
    pub(super) fn writes(&self, prefix: &str) -> Vec<String> {
        let state = self.state.lock();
        let found = state.writes.iter().filter(|write| write.starts_with(prefix));
        found.cloned().collect()
    }

    /// Answers 503 to everything.
    pub(super) fn set_down(&self, down: bool) {
        self.state.lock().down = down;
    }

    fn store(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state.lock();
        let parts: Vec<_> = path.splitn(3, '/').collect();
        let version = *self.version.borrow() + 1;
        let old = state.objects.get(path).cloned();
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("namespace".to_owned(), parts[1].into());
        meta.insert("name".to_owned(), parts[2].into());
        meta.insert("resourceVersion".to_owned(), version.to_string().into());
        state.objects.insert(path.to_owned(), object.clone());
        let what = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.record(&mut state, path, what, object.clone());
        object
    }

    fn record(&self, state: &mut State, path: &str, what: &'static str, object: Value) {
        let version = *self.version.borrow() + 1;
        state.log.push((version, path.to_owned(), what, object));
        self.version.send_replace(version);
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if self.state.lock().down {
            return Ok(failure(503, "ServiceUnavailable", "away"));
        }
        let method = request.method().clone();
        let (path, query) = (
            request.uri().path().to_owned(),
            request.uri().query().unwrap_or("").to_owned(),
        );
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if path.ends_with("/tokenreviews") {
            return Ok(answer(201, &self.review(&body)));
        }
        let Some(place) = Place::of(&path) else {
            return Ok(failure(404, "NotFound", "no such resource"));
        };
        if method != Method::GET {
            let name = place
                .name
                .clone()
                .or_else(|| body.pointer("/metadata/name")?.as_str().map(str::to_owned));
            let write = format!("{method} {}", place.path(name.as_deref().unwrap_or_default()));
            self.state.lock().writes.push(write);
        }
        Ok(match (method, &place.name) {
            (Method::GET, None) if query.contains("watch=true") => self.watch(&place, &query),
            (Method::GET, None) => self.list(&place, &query),
            (Method::GET, Some(name)) => match self.get(&place.path(name)) {
                Some(object) => answer(200, &object),
                None => failure(404, "NotFound", "not found"),
            },
            (Method::POST, None) => self.create(&place, body),
            (Method::PUT, Some(name)) => self.replace(&place.path(name), body),
            (Method::PATCH, Some(name)) => self.patch(&place.path(name), body),
            (Method::DELETE, Some(name)) => {
                self.delete(&place.path(name));
                answer(200, &json!({"kind": "Status", "status": "Success"}))
            }
            _ => failure(405, "MethodNotAllowed", "method"),
        })
    }

    fn review(&self, body: &Value) -> Value {
        let token = body.pointer("/spec/token").and_then(Value::as_str).unwrap_or("");
        let asked = body
            .pointer("/spec/audiences/0")
            .and_then(Value::as_str)
            .unwrap_or("");
        let state = self.state.lock();
        let status = match state.tokens.get(token) {
            Some((audience, user)) if audience == asked => {
                json!({"authenticated": true, "audiences": [audience], "user": user})
            }
            _ => json!({"authenticated": false, "error": "token is not valid"}),
        };
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status})
    }

    fn list(&self, place: &Place, query: &str) -> Response<Body> {
        let state = self.state.lock();
        let items: Vec<_> = state
            .objects
            .iter()
            .filter(|(path, _)| place.covers(path, query))
            .map(|(_, object)| object)
            .collect();
        let version = self.version.borrow().to_string();
        answer(
            200,
            &json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    fn watch(self: &Arc<Self>, place: &Place, query: &str) -> Response<Body> {
        let since = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="))
            .and_then(|version| version.parse::<u64>().ok())
            .unwrap_or(0);
        let start = (
            Arc::clone(self),
            self.version.subscribe(),
            since,
            place.clone(),
            query.to_owned(),
        );
        let events = stream::unfold(start, |(api, mut version, mut at, place, query)| async move {
            loop {
                let next = {
                    let state = api.state.lock();
                    if state.down {
                        return None;
                    }
                    let found = state
                        .log
                        .iter()
                        .find(|entry| entry.0 > at && place.covers(&entry.1, &query));
                    found.cloned()
                };
                if let Some((seen, _, what, object)) = next {
                    at = seen;
                    let line = json!({"type": what, "object": object}).to_string() + "\n";
                    let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(line)));
                    return Some((frame, (api, version, at, place, query)));
                }
                version.changed().await.ok()?;
            }
        });
        Response::new(BodyExt::boxed(StreamBody::new(events)))
    }

    fn create(&self, place: &Place, body: Value) -> Response<Body> {
        let name = body
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned();
        let path = place.path(&name);
        if self.get(&path).is_some() {
            return failure(409, "AlreadyExists", "exists");
        }
        answer(201, &self.store(&path, body))
    }

    fn replace(&self, path: &str, body: Value) -> Response<Body> {
        let Some(old) = self.get(path) else {
            return failure(404, "NotFound", "not found");
        };
        let version = "/metadata/resourceVersion";
        if body
            .pointer(version)
            .is_some_and(|given| Some(given) != old.pointer(version))
        {
            return failure(409, "Conflict", "changed since");
        }
        answer(200, &self.store(path, body))
    }

    /// Applies; of a strategic patch just what webhooks need: lists merged by name.
    fn patch(&self, path: &str, body: Value) -> Response<Body> {
        let merged = match self.get(path) {
            Some(mut old) if body.get("kind").is_none() => {
                merge(&mut old, body);
                old
            }
            _ => body,
        };
        answer(200, &self.store(path, merged))
    }
}

fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for value in new {
                match old.iter_mut().find(|one| one["name"] == value["name"]) {
                    Some(one) => merge(one, value),
                    None => old.push(value),
                }
            }
        }
        (old, new) => *old = new,
    }
}

#[derive(Clone)]
struct Place {
    plural: String,
    namespace: Option<String>,
    name: Option<String>,
}

impl Place {
    fn of(path: &str) -> Option<Self> {
        let mut parts: Vec<_> = path.trim_matches('/').split('/').collect();
        parts.drain(..if parts[0] == "api" { 2 } else { 3.min(parts.len()) });
        let namespace = (parts.len() > 2 && parts[0] == "namespaces").then(|| parts[1].to_owned());
        if namespace.is_some() {
            parts.drain(..2);
        }
        Some(Self {
            plural: (*parts.first()?).to_owned(),
            namespace,
            name: parts.get(1).map(|name| (*name).to_owned()),
        })
    }

    fn path(&self, name: &str) -> String {
        format!(
            "{}/{}/{name}",
            self.plural,
            self.namespace.as_deref().unwrap_or("")
        )
    }

    fn covers(&self, path: &str, query: &str) -> bool {
        let parts: Vec<_> = path.splitn(3, '/').collect();
        let one = query.split('&').find_map(|pair| {
            let pair = pair.replace("%3D", "=").replace("%2E", ".");
            pair.strip_prefix("fieldSelector=metadata.name=")
                .map(str::to_owned)
        });
        parts[0] == self.plural
            && self
                .namespace
                .as_deref()
                .is_none_or(|namespace| namespace == parts[1])
            && one.is_none_or(|name| name == parts[2])
    }
}

fn answer(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn failure(code: u16, reason: &str, message: &str) -> Response<Body> {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "code": code, "reason": reason, "message": message}),
    )
}
