//! An API server on loopback that lists, watches and fails as it is told.

use bytes::Bytes;
use futures_util::stream::unfold;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

pub(super) const NAMESPACES: &str = "/api/v1/namespaces";
pub(super) const SERVICES: &str = "/api/v1/services";
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(super) const PODS: &str = "/api/v1/pods";
pub(super) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(super) const ROUTES: &str = "/apis/networking.istio.io/v1/virtualservices";

/// What is wrong with one answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// This status.
    Status(u16),
    /// No object.
    Empty,
    /// No JSON.
    Garbage,
    /// The connection ends after the first page.
    HalfAList,
    /// A watch that begins and is silent from then on.
    Silence,
}

#[derive(Default)]
struct Inner {
    version: u64,
    /// Watches from before this version are answered with 410.
    oldest: u64,
    objects: HashMap<String, BTreeMap<String, Value>>,
    log: Vec<(String, u64, String)>,
    requests: Vec<String>,
    lists: VecDeque<(String, Fault)>,
    watches: VecDeque<(String, Fault)>,
    streams: bool,
}

/// See the module's description.
#[derive(Clone)]
pub(super) struct Server {
    inner: Arc<Mutex<Inner>>,
    /// Log length, and how often all watches were ended.
    news: Arc<watch::Sender<(usize, usize)>>,
    pub(super) url: String,
}

type Body = BoxBody<Bytes, Infallible>;

impl Server {
    pub(super) async fn start(streams: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            inner: Arc::new(Mutex::new(Inner {
                version: 10,
                streams,
                ..Inner::default()
            })),
            news: Arc::new(watch::channel((0, 0)).0),
            url: format!("http://{}", listener.local_addr().unwrap()),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(&request)) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        server
    }

    /// Creates or replaces an object, and tells the watches.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        let version = inner.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let name = object["metadata"]["name"].to_string() + &object["metadata"]["namespace"].to_string();
        let objects = inner.objects.entry(path.to_owned()).or_default();
        let kind = match objects.insert(name, object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        self.tell(
            inner,
            path,
            version,
            json!({"type": kind, "object": object}).to_string(),
        );
    }

    /// Deletes an object, and tells the watches if `aloud`.
    pub(super) fn delete(&self, path: &str, name: &str, aloud: bool) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        let version = inner.version;
        let objects = inner.objects.get_mut(path).unwrap();
        let key = objects
            .keys()
            .find(|k| k.starts_with(&format!("\"{name}\"")))
            .unwrap()
            .clone();
        let mut object = objects.remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        if aloud {
            let line = json!({"type": "DELETED", "object": object}).to_string();
            self.tell(inner, path, version, line);
        }
    }

    /// Sends a line on the watches of `path` that are open now, whatever it is.
    pub(super) fn say(&self, path: &str, line: &str) {
        self.tell(self.inner.lock(), path, 0, line.to_owned());
    }

    fn tell(&self, mut inner: parking_lot::MutexGuard<'_, Inner>, path: &str, version: u64, line: String) {
        inner.log.push((path.to_owned(), version, line));
        let length = inner.log.len();
        drop(inner);
        self.news.send_modify(|(log, _)| *log = length);
    }

    /// Spoils the next list of `path`.
    pub(super) fn spoil_list(&self, path: &str, fault: Fault) {
        self.inner.lock().lists.push_back((path.to_owned(), fault));
    }

    /// Spoils the next watch of `path`.
    pub(super) fn spoil_watch(&self, path: &str, fault: Fault) {
        self.inner.lock().watches.push_back((path.to_owned(), fault));
    }

    /// Ends all watches; with `compact`, nothing from before now can be watched from.
    pub(super) fn end_watches(&self, compact: bool) {
        let mut inner = self.inner.lock();
        if compact {
            inner.version += 1;
            inner.oldest = inner.version;
        }
        drop(inner);
        self.news.send_modify(|(_, ends)| *ends += 1);
    }

    /// How many requests so far contain all of `parts`.
    pub(super) fn requests(&self, parts: &[&str]) -> usize {
        let inner = self.inner.lock();
        let with = |r: &&String| parts.iter().all(|part| r.contains(part));
        inner.requests.iter().filter(with).count()
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let uri = request.uri();
        let path = uri.path().to_owned();
        let query: HashMap<String, String> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.replace("%3D", "=")))
            .collect();
        self.inner.lock().requests.push(uri.to_string());
        if path == "/version" {
            return ok(
                &json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
            );
        }
        if path.split('/').count() == 4 && path.starts_with("/apis/") {
            return self.resources(&path);
        }
        if query.contains_key("watch") {
            self.watch(&path, &query)
        } else {
            self.list(&path, &query)
        }
    }

    /// The kinds of a group, as its definitions say.
    fn resources(&self, path: &str) -> Response<Body> {
        let group = path.split('/').nth(2).unwrap();
        let inner = self.inner.lock();
        let crds = inner.objects.get(CRDS).into_iter().flat_map(BTreeMap::values);
        let names = crds.filter_map(|crd| {
            crd["metadata"]["name"]
                .as_str()?
                .strip_suffix(&format!(".{group}"))
        });
        let resources: Vec<Value> = names
            .map(|plural| json!({"name": plural, "singularName": "", "namespaced": true, "kind": "X", "verbs": []}))
            .collect();
        if resources.is_empty() {
            return failure(404);
        }
        ok(
            &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": path[6..], "resources": resources}),
        )
    }

    fn list(&self, path: &str, query: &HashMap<String, String>) -> Response<Body> {
        let mut inner = self.inner.lock();
        let fault = take(&mut inner.lists, path);
        let version = inner.version.to_string();
        let all: Vec<Value> = inner
            .objects
            .get(path)
            .into_iter()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect();
        let page = |items: &[Value], more: &str| {
            ok(&json!({"kind": "List", "apiVersion": "v1", "items": items,
                "metadata": {"resourceVersion": version, "continue": more}}))
        };
        match fault {
            Some(Fault::Status(status)) => failure(status),
            Some(Fault::Empty) => page(&[], ""),
            Some(Fault::Garbage) => Response::new(full("{{{")),
            Some(Fault::HalfAList) => {
                inner.lists.push_front((path.to_owned(), Fault::Status(500)));
                page(&all[..all.len() / 2], "half")
            }
            _ if query.contains_key("continue") => page(&all[all.len() / 2..], ""),
            _ => page(&all, ""),
        }
    }

    fn watch(&self, path: &str, query: &HashMap<String, String>) -> Response<Body> {
        let mut inner = self.inner.lock();
        let fault = take(&mut inner.watches, path);
        if let Some(Fault::Status(status)) = fault {
            return failure(status);
        }
        let initial = query.contains_key("sendInitialEvents");
        if initial && !inner.streams {
            return failure(422);
        }
        let mut since: u64 = query["resourceVersion"].parse().unwrap();
        let mut first = Vec::new();
        if initial {
            let added = inner.objects.get(path).into_iter().flat_map(BTreeMap::values);
            first.extend(added.map(|o| json!({"type": "ADDED", "object": o}).to_string()));
            let mark = json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "X", "metadata":
                {"resourceVersion": inner.version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}});
            first.push(mark.to_string());
            since = inner.version;
        } else if since < inner.oldest {
            let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
                "status": "Failure", "reason": "Expired", "message": "too old resource version", "code": 410}});
            return Response::new(full(&(gone.to_string() + "\n")));
        }
        let from = inner.log.len();
        let missed = inner.log.iter().filter(|(p, v, _)| p == path && *v > since);
        first.extend(missed.map(|(.., line)| line.clone()));
        drop(inner);
        let (lines, received) = mpsc::channel(1_024);
        let (server, path) = (self.clone(), path.to_owned());
        tokio::spawn(async move { server.feed(&path, first, from, fault.is_some(), &lines).await });
        let frames = unfold(received, |mut received| async {
            let line: String = received.recv().await?;
            Some((
                Ok::<_, Infallible>(Frame::data(Bytes::from(line + "\n"))),
                received,
            ))
        });
        Response::new(StreamBody::new(frames).boxed())
    }

    async fn feed(
        &self,
        path: &str,
        first: Vec<String>,
        mut from: usize,
        silent: bool,
        lines: &mpsc::Sender<String>,
    ) {
        let mut news = self.news.subscribe();
        let ends = news.borrow_and_update().1;
        if !silent {
            for line in first {
                let _ = lines.send(line).await;
            }
        }
        loop {
            let fresh: Vec<String> = {
                let inner = self.inner.lock();
                let fresh = inner.log[from..].iter().filter(|(p, ..)| p == path);
                let fresh = fresh.map(|(.., line)| line.clone()).collect();
                from = inner.log.len();
                fresh
            };
            for line in fresh.into_iter().filter(|_| !silent) {
                let _ = lines.send(line).await;
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() || (news.borrow().1 != ends && !silent) { return },
                () = lines.closed() => return,
            }
        }
    }
}

fn take(faults: &mut VecDeque<(String, Fault)>, path: &str) -> Option<Fault> {
    let place = faults.iter().position(|(p, _)| p == path)?;
    faults.remove(place).map(|(_, fault)| fault)
}

fn full(text: &str) -> Body {
    Full::new(Bytes::from(text.to_owned())).boxed()
}

fn ok(value: &Value) -> Response<Body> {
    Response::new(full(&value.to_string()))
}

fn failure(code: u16) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "Told", "message": "as it was told", "code": code});
    Response::builder()
        .status(code)
        .body(full(&status.to_string()))
        .unwrap()
}
