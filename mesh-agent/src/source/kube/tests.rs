//! The source against an API server that does what API servers do.

mod server;

use super::*;
use mesh_core::model::snapshot::MeshSettings;
use mesh_core::state::State;
use serde_json::{Value, json};
use server::{CRDS, Fault, NAMESPACES, PODS, ROUTES, SERVICES, SLICES, Server};
use std::collections::BTreeSet;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

fn settings() -> WatchSettings {
    WatchSettings {
        gather: Duration::from_millis(5),
        gather_at_most: Duration::from_millis(10),
        backoff: Duration::from_millis(20),
        backoff_at_most: Duration::from_millis(100),
        watch_timeout_s: 1,
        spread: Duration::ZERO,
    }
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"ports": [{"port": 80}]}})
}

fn crd(name: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}})
}

fn route(name: &str) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"hosts": [name], "http": [{"route": [{"destination": {"host": "a"}}]}]}})
}

/// What the source's receiver knows.
struct Watched {
    server: Server,
    changes: mpsc::Receiver<Vec<Change>>,
    state: State,
    inits: usize,
    done: usize,
    applied: usize,
    figures: SourceFigures,
}

impl Watched {
    fn of(server: &Server) -> Self {
        let config = kube::Config::new(server.url.parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let (sender, changes) = mpsc::channel(8);
        let figures = SourceFigures::default();
        tokio::spawn(watch(
            client,
            Reader::Agent("node-1".into()),
            settings(),
            figures.clone(),
            sender,
        ));
        Self {
            server: server.clone(),
            changes,
            state: State::for_node(MeshSettings::default(), "node-1"),
            inits: 0,
            done: 0,
            applied: 0,
            figures,
        }
    }

    async fn take(&mut self) {
        let batch = timeout(PATIENCE, self.changes.recv())
            .await
            .expect("no change came")
            .unwrap();
        for change in batch {
            match &change {
                Change::Init => self.inits += 1,
                Change::InitDone => self.done += 1,
                Change::Apply { .. } => self.applied += 1,
                _ => {}
            }
            self.state.apply(change);
        }
    }

    async fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            let services = self.services();
            let taken = tokio::time::timeout_at(until, self.take()).await;
            assert!(taken.is_ok(), "never: {what}; services are {services:?}");
        }
    }

    async fn listed(&mut self) {
        self.until("listed", |w| w.done == 1).await;
    }

    fn services(&mut self) -> BTreeSet<String> {
        let snapshot = self.state.snapshot();
        snapshot
            .services
            .iter()
            .map(|s| s.name.name.to_string())
            .collect()
    }

    async fn has(&mut self, services: &[&str]) {
        let wanted: BTreeSet<String> = services.iter().map(|s| (*s).to_owned()).collect();
        self.until("these services", |w| w.services() == wanted).await;
    }

    /// Nothing comes until the server has been asked `times` more with `parts`.
    async fn quiet_until_asked(&mut self, parts: &[&str], times: usize) {
        let wanted = self.server.requests(parts) + times;
        let asked = async {
            while self.server.requests(parts) < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, asked).await.expect("the server was not asked");
    }
}

#[tokio::test]
async fn every_kind_is_listed_once_by_stream_and_only_the_nodes_own_pods() {
    let server = Server::start(true).await;
    server.put(
        NAMESPACES,
        json!({"metadata": {"name": "shop", "labels": {"heddle.io/mesh": "enabled"}}}),
    );
    server.put(SERVICES, service("a"));
    server.put(
        PODS,
        json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"nodeName": "node-1"},
        "status": {"podIP": "10.0.0.1"}}),
    );
    server.put(SLICES, json!({"metadata": {"name": "a-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "a"}},
        "ports": [{"name": "", "port": 80}], "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "p"}}]}));
    let mut watched = Watched::of(&server);
    watched.listed().await;
    let snapshot = watched.state.snapshot();
    assert!(snapshot.workloads[0].enrolled());
    assert_eq!(snapshot.services[0].ports[0].endpoints.len(), 1);
    assert_eq!(
        (watched.inits, watched.done, watched.state.problems()),
        (1, 1, vec![])
    );
    assert_eq!(
        server.requests(&["/pods?", "fieldSelector=spec.nodeName%3Dnode-1"]),
        server.requests(&["/pods?"])
    );
    let lists = server.requests(&["sendInitialEvents=true"]);
    assert_eq!(
        lists, 5,
        "one for each kind that is there, and one for the definitions"
    );
    assert_eq!(server.requests(&["limit="]), 0);
}

#[tokio::test]
async fn a_server_without_streamed_lists_is_asked_for_pages() {
    let server = Server::start(false).await;
    server.put(SERVICES, service("a"));
    let mut watched = Watched::of(&server);
    watched.listed().await;
    watched.has(&["a"]).await;
    assert!(server.requests(&["/services?", "limit="]) == 1);
    server.put(SERVICES, service("b"));
    watched.has(&["a", "b"]).await;
}

#[tokio::test]
async fn a_watch_that_ends_is_resumed_without_listing_again() {
    let server = Server::start(true).await;
    server.put(SERVICES, service("a"));
    let mut watched = Watched::of(&server);
    watched.listed().await;
    server.end_watches(false);
    server.put(SERVICES, service("b"));
    watched.has(&["a", "b"]).await;
    assert_eq!(server.requests(&["/services?", "sendInitialEvents"]), 1);
    assert_eq!(watched.applied, 2, "nothing is repeated");
}

#[tokio::test]
async fn after_410_only_what_the_new_list_is_really_without_is_deleted() {
    let server = Server::start(true).await;
    ["a", "b", "c"]
        .iter()
        .for_each(|name| server.put(SERVICES, service(name)));
    let mut watched = Watched::of(&server);
    watched.listed().await;
    server.delete(SERVICES, "b", false);
    server.put(SERVICES, service("d"));
    server.end_watches(true);
    watched.has(&["a", "c", "d"]).await;
    assert_eq!(
        (watched.inits, watched.done),
        (1, 1),
        "a relist of one kind is no listing of all"
    );
    assert_eq!(watched.applied, 4, "what is the same is not handed over again");
}

#[tokio::test]
async fn a_list_that_breaks_off_deletes_nothing() {
    let server = Server::start(false).await;
    ["a", "b", "c", "d"]
        .iter()
        .for_each(|name| server.put(SERVICES, service(name)));
    let mut watched = Watched::of(&server);
    watched.listed().await;
    server.spoil_list(SERVICES, Fault::HalfAList);
    server.spoil_list(SERVICES, Fault::Garbage);
    server.put(SERVICES, service("e"));
    server.end_watches(true);
    watched.until("the new one", |w| w.services().contains("e")).await;
    assert_eq!(watched.services().len(), 5);
    assert!(watched.state.snapshot().version <= 6);
}

#[tokio::test]
async fn an_empty_list_after_an_error_is_asked_for_again_before_it_is_believed() {
    let server = Server::start(false).await;
    server.put(SERVICES, service("a"));
    let mut watched = Watched::of(&server);
    watched.listed().await;
    server.spoil_list(SERVICES, Fault::Status(503));
    server.spoil_list(SERVICES, Fault::Empty);
    server.end_watches(true);
    watched.quiet_until_asked(&["/services?", "limit="], 3).await;
    server.put(SERVICES, service("b"));
    watched.has(&["a", "b"]).await;
    server.delete(SERVICES, "a", false);
    server.delete(SERVICES, "b", false);
    server.spoil_list(SERVICES, Fault::Status(500));
    server.end_watches(true);
    watched.has(&[]).await;
}

#[tokio::test]
async fn a_watch_that_is_silent_is_given_up() {
    let server = Server::start(true).await;
    server.put(SERVICES, service("a"));
    let mut watched = Watched::of(&server);
    watched.listed().await;
    server.spoil_watch(SERVICES, Fault::Silence);
    server.end_watches(false);
    watched.quiet_until_asked(&["/services?", "watch"], 1).await;
    server.put(SERVICES, service("b"));
    watched.has(&["a", "b"]).await;
}

#[tokio::test]
async fn what_the_server_cannot_mean_costs_nobody_else() {
    let server = Server::start(true).await;
    server.put(SERVICES, service("a"));
    server.put(
        SERVICES,
        json!({"metadata": {"name": "odd", "namespace": "shop", "labels": 7}, "spec": "nonsense"}),
    );
    let mut watched = Watched::of(&server);
    watched.listed().await;
    watched.has(&["a"]).await;
    let problems = watched.state.problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].rejected.object.contains("shop/odd"), "{problems:?}");
    server.put(SERVICES, service("more"));
    watched.has(&["a", "more"]).await;
    assert_eq!(
        watched.state.problems(),
        problems,
        "it is told until it is right or gone"
    );
    server.delete(SERVICES, "odd", true);
    watched
        .until("no problem", |w| w.state.problems().is_empty())
        .await;
    server.say(
        SERVICES,
        "{\"type\": \"ADDED\", \"object\": {\"metadata\": {\"resourceVersion\": \"9\"}}}",
    );
    server.say(SERVICES, "{{{");
    server.put(SERVICES, service("b"));
    watched.has(&["a", "b", "more"]).await;
    assert!(
        server.requests(&["/services?", "sendInitialEvents"]) >= 2,
        "an event was lost"
    );
}

#[tokio::test]
async fn a_kind_whose_definition_appears_later_is_watched_from_then_on_and_not_asked_for_before() {
    let server = Server::start(true).await;
    let mut watched = Watched::of(&server);
    watched.listed().await;
    assert_eq!(server.requests(&["networking.istio.io"]), 0);
    server.put(ROUTES, route("r"));
    server.put(CRDS, crd("virtualservices.networking.istio.io"));
    watched
        .until("the route", |w| !w.state.snapshot().routes.is_empty())
        .await;
    server.delete(CRDS, "virtualservices.networking.istio.io", true);
    server.spoil_list(ROUTES, Fault::Status(404));
    server.spoil_watch(ROUTES, Fault::Status(404));
    server.end_watches(false);
    watched
        .until("no route", |w| w.state.snapshot().routes.is_empty())
        .await;
    assert_eq!(watched.services().len(), 0);
}

#[tokio::test]
async fn what_changes_while_others_are_still_listed_is_not_lost() {
    let server = Server::start(true).await;
    server.put(SERVICES, service("a"));
    server.spoil_watch(PODS, Fault::Status(500));
    server.spoil_watch(PODS, Fault::Status(500));
    server.spoil_watch(PODS, Fault::Status(500));
    let mut watched = Watched::of(&server);
    watched.until("the first version", |w| w.applied == 1).await;
    let mut second = service("a");
    second["spec"]["ports"][0]["port"] = 81.into();
    server.put(SERVICES, second);
    watched.listed().await;
    watched.until("the second version", |w| w.applied >= 2).await;
    assert_eq!(watched.state.snapshot().services[0].ports[0].number, 81);
    assert_eq!(watched.state.problems(), []);
}

#[tokio::test]
async fn the_source_tells_what_it_heard() {
    let server = Server::start(true).await;
    server.put(SERVICES, service("a"));
    let mut watched = Watched::of(&server);
    watched.listed().await;
    server.put(SERVICES, service("b"));
    watched.has(&["a", "b"]).await;
    let figures = watched.figures.of(Reader::Controller.kinds()[1]);
    assert_eq!(figures.summary(), (1, 1, 0, 2, 12));
}
