//! The whole controller on an API server in memory, asked by the agent's own client, judged by the mesh's own TLS.

mod api;

use crate::ca::remote::{RootSource, server_name};
use crate::ca::{
    CaError, CertificateAuthority, CertificateStore, Issued, RemoteCa, RemoteConfig, system_clock,
};
use crate::contract::{CertificateError, Certificates, certificate};
use crate::drain::drain;
use crate::testing::{TempDir, handshake, id};
use crate::tls::{IdentityMaterial, identity_tls, peer_identity};
use api::Api;
use clap::Parser;
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

const FORECAST: &str = "spiffe://cluster.local/ns/weather/sa/forecast";
const FRONTEND: &str = "spiffe://cluster.local/ns/weather/sa/frontend";
const AGENT: &str = "system:serviceaccount:heddle-system:heddle-agent";
const NODE: &str = "authentication.kubernetes.io/node-name";
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: super::config::ControllerConfig,
}

/// A replica on free ports; it ends with the task.
struct Replica {
    ca: SocketAddr,
    metrics: SocketAddr,
    webhook: SocketAddr,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
    stop: tokio::sync::oneshot::Sender<()>,
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap()
}

impl Replica {
    fn start(client: &kube::Client) -> Self {
        let (ca, webhook, metrics) = (free(), free(), free());
        let args = [
            "controller".to_owned(),
            format!("--ca-addr={ca}"),
            format!("--webhook-addr={webhook}"),
            format!("--metrics-addr={metrics}"),
        ];
        let config = Flags::parse_from(args).config;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let until = async {
            let _told = stopped.await;
        };
        let task = tokio::spawn(super::serve(config, client.clone(), until));
        Self {
            ca,
            metrics,
            webhook,
            task,
            stop,
        }
    }

    async fn page(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(mut tcp) = tokio::net::TcpStream::connect(self.metrics).await else {
            return String::new();
        };
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        tcp.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        text
    }

    async fn ready(&self) {
        until("ready", async || {
            self.page("/healthz/ready").await.starts_with("HTTP/1.1 200")
        })
        .await;
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "not in {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn pod(api: &Api, name: &str, account: &str, node: &str) {
    api.put(
        &format!("pods/weather/{name}"),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"uid": name, "generateName": format!("{account}-"), "labels": {"app": account}},
            "spec": {"nodeName": node, "serviceAccountName": account, "containers": []},
            "status": {"phase": "Running"},
        }),
    );
}

/// An API server with two pods on two nodes and an agent's token on each.
async fn cluster() -> (Arc<Api>, kube::Client) {
    let (api, client) = Api::start().await;
    pod(&api, "forecast-1", "forecast", "n1");
    pod(&api, "frontend-1", "frontend", "n2");
    for node in ["n1", "n2"] {
        api.token(&format!("agent-{node}"), "istio-ca", AGENT, json!({NODE: [node]}));
    }
    (api, client)
}

/// The roots that the controller announces.
fn announced(api: &Arc<Api>) -> RootSource {
    let api = Arc::clone(api);
    Arc::new(move || {
        let map = api.get("configmaps/heddle-system/heddle-ca-root-cert");
        let pem = map.and_then(|map| map["data"]["root-cert.pem"].as_str().map(str::to_owned));
        Box::pin(std::future::ready(
            pem.map(String::into_bytes)
                .ok_or_else(|| "not there yet".to_owned()),
        ))
    })
}

struct Asker {
    _dir: TempDir,
    ca: RemoteCa,
}

impl Asker {
    fn new(to: SocketAddr, token: &str, roots: RootSource) -> Self {
        Self::named(
            to,
            token,
            roots,
            server_name(&to.to_string(), "heddle-system"),
            3600,
        )
    }

    fn named(to: SocketAddr, token: &str, roots: RootSource, server_name: String, ttl: u64) -> Self {
        let dir = TempDir::new();
        let path = dir.0.join("token");
        std::fs::write(&path, format!("{token}\n")).unwrap();
        let ca = RemoteCa::new(RemoteConfig {
            address: to.to_string(),
            server_name,
            token: path,
            roots,
            ttl,
        });
        Self { _dir: dir, ca }
    }

    async fn ask(&self, uri: &str) -> Result<Issued, CaError> {
        self.ca.issue(&id(uri), system_clock()()).await
    }
}

/// Whom the server sees after a handshake of two certificates as the mesh makes it.
fn shake(client: IdentityMaterial, server: IdentityMaterial) -> String {
    let (client, server) = (identity_tls(client).unwrap(), identity_tls(server).unwrap());
    let server = handshake(&client, &server);
    peer_identity(server.peer_certificates().unwrap())
        .unwrap()
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_two_nodes_get_certificates_by_which_their_pods_trust_each_other() {
    let (api, client) = cluster().await;
    let replicas = [Replica::start(&client), Replica::start(&client)];
    for replica in &replicas {
        replica.ready().await;
    }
    until("roots announced", async || {
        api.get("configmaps/heddle-system/heddle-ca-root-cert").is_some()
    })
    .await;
    assert_eq!(api.writes("POST secrets").len(), 1, "one leader made one key");
    let one = Asker::new(replicas[0].ca, "agent-n1", announced(&api));
    let other = Asker::new(replicas[1].ca, "agent-n2", announced(&api));
    let (one, other) = (
        one.ask(FORECAST).await.unwrap(),
        other.ask(FRONTEND).await.unwrap(),
    );
    let life = one.material.not_after - one.not_before;
    assert_eq!(life, 3600 + 120);
    assert_eq!(shake(other.material, one.material), FRONTEND);
    assert!(
        replicas[0]
            .page("/metrics")
            .await
            .contains("heddle_ca_certificates_total{code=\"OK\"} 1"),
        "counted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_gets_nothing_that_is_not_its_own() {
    let (api, client) = cluster().await;
    let replica = Replica::start(&client);
    replica.ready().await;
    until("roots announced", async || {
        api.get("configmaps/heddle-system/heddle-ca-root-cert").is_some()
    })
    .await;
    api.token(
        "app",
        "istio-ca",
        "system:serviceaccount:weather:frontend",
        json!({NODE: ["n2"]}),
    );
    api.token("other-audience", "vault", AGENT, json!({NODE: ["n1"]}));
    for (what, token, wanted) in [
        ("a pod of another node", "agent-n2", FORECAST),
        ("a token for another audience", "other-audience", FORECAST),
        ("no token that anyone knows", "made-up", FORECAST),
        ("an account that is not trusted", "app", FORECAST),
        (
            "another mesh",
            "agent-n1",
            "spiffe://evil.example/ns/weather/sa/forecast",
        ),
    ] {
        let asker = Asker::new(replica.ca, token, announced(&api));
        match asker.ask(wanted).await {
            Err(CaError::Refused { reason, .. }) => assert!(reason.contains("authentic"), "{what}: {reason}"),
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => panic!("{what}: got a certificate"),
        }
    }
    let own = Asker::new(replica.ca, "app", announced(&api));
    own.ask(FRONTEND).await.unwrap();
    let long = Asker::named(
        replica.ca,
        "agent-n1",
        announced(&api),
        "heddle-controller.heddle-system.svc".to_owned(),
        91 * 24 * 3600,
    );
    let error = long.ask(FORECAST).await.err().unwrap().to_string();
    assert!(error.contains("max allowed TTL"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_the_ca_never_sees_a_token() {
    let (api, client) = cluster().await;
    let replica = Replica::start(&client);
    replica.ready().await;
    let foreign = crate::ca::signer::new_root("cluster.local", system_clock()())
        .unwrap()
        .certificate_pem;
    let roots: RootSource = Arc::new(move || {
        let pem = foreign.clone().into_bytes();
        Box::pin(std::future::ready(Ok(pem)))
    });
    let asker = Asker::new(replica.ca, "agent-n1", roots);
    assert!(matches!(asker.ask(FORECAST).await, Err(CaError::Away { .. })));
    until("roots announced", async || {
        api.get("configmaps/heddle-system/heddle-ca-root-cert").is_some()
    })
    .await;
    let name = "istiod.istio-system.svc".to_owned();
    let asker = Asker::named(replica.ca, "agent-n1", announced(&api), name, 3600);
    assert!(matches!(asker.ask(FORECAST).await, Err(CaError::Away { .. })));
    assert!(
        replica
            .page("/metrics")
            .await
            .lines()
            .all(|line| !line.starts_with("heddle_ca_certificates_total{"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_follow_pods_and_are_written_by_the_leader_only_once() {
    let (api, client) = cluster().await;
    let replicas = [Replica::start(&client), Replica::start(&client)];
    let path = "workloadtemplates/weather/forecast";
    until("template written", async || api.get(path).is_some()).await;
    let spec = api.get(path).unwrap()["spec"].clone();
    assert_eq!(
        spec,
        json!({"podPrefix": "forecast-", "serviceAccountName": "forecast", "labels": {"app": "forecast"}})
    );
    // A sibling that is alike changes nothing; one that differs has its own object.
    pod(&api, "forecast-2", "forecast", "n2");
    let mut odd = api.get("pods/weather/forecast-2").unwrap();
    odd["metadata"]["labels"]["app"] = "quarantine".into();
    api.put("pods/weather/forecast-3", odd);
    let own = "workloadtemplates/weather/pod.forecast-3";
    until("own template", async || api.get(own).is_some()).await;
    assert_eq!(
        api.writes(&format!("PATCH {path}"))
            .iter()
            .filter(|w| w.ends_with("/forecast"))
            .count(),
        1
    );
    api.delete("pods/weather/forecast-3");
    until("own template removed after the grace", async || {
        api.get(own).is_none()
    })
    .await;
    assert!(api.get(path).is_some());
    for replica in replicas {
        let _told = replica.stop.send(());
        replica.task.await.unwrap().unwrap();
    }
    let lease = api.get("leases/heddle-system/heddle-controller").unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "", "given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_takes_no_key_and_no_template_with_it() {
    let (api, client) = cluster().await;
    let replica = Replica::start(&client);
    replica.ready().await;
    until("template written", async || {
        api.get("workloadtemplates/weather/frontend").is_some()
    })
    .await;
    let asker = Asker::new(replica.ca, "agent-n1", announced(&api));
    asker.ask(FORECAST).await.unwrap();
    api.set_down(true);
    assert!(
        matches!(asker.ask(FORECAST).await, Err(CaError::Away { .. })),
        "nobody can review the token"
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    api.set_down(false);
    until("issues again", async || asker.ask(FORECAST).await.is_ok()).await;
    assert!(api.writes("DELETE").is_empty());
    assert_eq!(api.writes("POST secrets").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_key_is_taken_and_a_broken_one_leaves_the_last_good_one() {
    let (api, client) = cluster().await;
    let root = crate::ca::signer::new_root("cluster.local", system_clock()()).unwrap();
    let data = |key: &str, certificate: &str| {
        let encode =
            |text: &str| serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap();
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {
            "ca-key.pem": encode(key), "ca-cert.pem": encode(certificate),
            "root-cert.pem": encode(certificate), "cert-chain.pem": encode(""),
        }})
    };
    api.put(
        "secrets/heddle-system/cacerts",
        data(&root.key_pem, &root.certificate_pem),
    );
    let replica = Replica::start(&client);
    replica.ready().await;
    assert!(
        api.writes("POST secrets").is_empty(),
        "the user's key makes ours superfluous"
    );
    until("roots announced", async || {
        api.get("configmaps/heddle-system/heddle-ca-root-cert").is_some()
    })
    .await;
    let asker = Asker::new(replica.ca, "agent-n1", announced(&api));
    let trusted = asker.ask(FORECAST).await.unwrap().material.roots;
    let own = crate::ca::signer::certificates(root.certificate_pem.as_bytes()).unwrap();
    assert_eq!(trusted, own);
    api.put(
        "secrets/heddle-system/cacerts",
        data("no key", &root.certificate_pem),
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(asker.ask(FORECAST).await.unwrap().material.roots, own);
    // A new root: the old one stays trusted, and both are announced.
    let next = crate::ca::signer::new_root("cluster.local", system_clock()()).unwrap();
    api.put(
        "secrets/heddle-system/cacerts",
        data(&next.key_pem, &next.certificate_pem),
    );
    until("both roots trusted", async || {
        asker
            .ask(FORECAST)
            .await
            .is_ok_and(|issued| issued.material.roots.len() == 2)
    })
    .await;
    until("both roots announced", async || {
        let map = api.get("configmaps/heddle-system/heddle-ca-root-cert").unwrap();
        map["data"]["root-cert.pem"]
            .as_str()
            .unwrap()
            .matches("BEGIN")
            .count()
            == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_is_told_whom_to_trust_and_everything_else_of_its_setting_stays() {
    let (api, client) = cluster().await;
    let path = "validatingwebhookconfigurations//heddle-validator";
    let hook = |name: &str| {
        json!({"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "failurePolicy": "Ignore", "clientConfig": {"service": {"name": "heddle-controller", "namespace": "heddle-system"}}})
    };
    api.put(
        path,
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {}, "webhooks": [hook("a.mesh.heddle.io"), hook("b.mesh.heddle.io")]}),
    );
    let replica = Replica::start(&client);
    replica.ready().await;
    until("told", async || {
        let hooks = api.get(path).unwrap()["webhooks"].clone();
        hooks
            .as_array()
            .unwrap()
            .iter()
            .all(|hook| hook["clientConfig"]["caBundle"].is_string())
    })
    .await;
    let hooks = api.get(path).unwrap()["webhooks"].clone();
    assert_eq!(hooks[1]["clientConfig"]["service"]["name"], "heddle-controller");
    assert_eq!(
        (hooks.as_array().unwrap().len(), &hooks[0]["failurePolicy"]),
        (2, &json!("Ignore"))
    );
    assert_ne!(replica.webhook, replica.ca);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_certificates_as_soon_as_its_pods_are_known_to_the_controller() {
    let (api, client) = cluster().await;
    let replica = Replica::start(&client);
    replica.ready().await;
    until("roots announced", async || {
        api.get("configmaps/heddle-system/heddle-ca-root-cert").is_some()
    })
    .await;
    let asker = Asker::new(replica.ca, "agent-n1", announced(&api));
    let store = Arc::new(CertificateStore::new(asker.ca, system_clock()));
    let (_trigger, until_end) = drain();
    tokio::spawn(Arc::clone(&store).run(until_end));
    let (known, new, elsewhere) = (
        id(FORECAST),
        id("spiffe://cluster.local/ns/weather/sa/new"),
        id(FRONTEND),
    );
    for identity in [&known, &new, &elsewhere] {
        store.want(identity);
    }
    certificate(&*store, &known).await.unwrap();
    // The agent saw the pod first.
    assert!(matches!(store.tls(&new), Err(CertificateError::Pending(_))));
    pod(&api, "new-1", "new", "n1");
    assert_eq!(certificate(&*store, &new).await.unwrap().identity, new);
    assert!(store.tls(&elsewhere).is_err(), "a pod of another node");
}
