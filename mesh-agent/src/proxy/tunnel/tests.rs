//! Both wire forms between a client and a server in one process, over loopback.

mod hostile;
mod streams;

use super::{TunnelClient, TunnelConfig, TunnelHandler, TunnelIncoming, TunnelKind, TunnelRequest, serve};
use crate::contract::{Certificates, Listeners, PodHandle};
use crate::drain::{DrainTrigger, DrainWatch, drain};
use crate::sys::NetNs;
use crate::testing::{ALICE, BOB, Fixed, TestCa, id};
use futures_util::future::LocalBoxFuture;
use mesh_core::model::ObjectName;
use mesh_core::model::workload::{Enrollment, FailMode, Names, Workload};
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

/// Ports of the "application"; what the handler does there.
const ECHO: u16 = 80;
const CLOSED: u16 = 81;
const DENIED: u16 = 82;
const SPEAKS_FIRST: u16 = 83;
const NEVER_READS: u16 = 84;

fn workload(uri: &str, name: &str) -> Arc<Workload> {
    let names = Arc::new(Names {
        workload: name.into(),
        kind: "deployment".into(),
        app: name.into(),
        version: "v1".into(),
        canonical_service: name.into(),
        canonical_revision: "v1".into(),
    });
    Arc::new(Workload {
        id: 1,
        pod: ObjectName {
            namespace: "weather".into(),
            name: name.into(),
        },
        uid: name.into(),
        node: "n1".into(),
        ips: vec![Ipv4Addr::LOCALHOST.into()],
        labels: Arc::default(),
        identity: id(uri),
        names,
        enrollment: Enrollment::Enrolled,
        ready: true,
        netns: None,
        probe_ports: Vec::new(),
        fail_mode: FailMode::Closed,
        resolves_itself: false,
    })
}

fn pod(workload: Arc<Workload>) -> Arc<PodHandle> {
    let listener = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listeners = Listeners {
        outbound: listener(),
        inbound: listener(),
        tunnel: listener(),
    };
    Arc::new(PodHandle {
        workload,
        netns: NetNs::current().unwrap(),
        listeners: Some(listeners),
        resolver: Vec::new(),
    })
}

/// What the handler saw of each stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: TunnelKind,
    peer: String,
    client: SocketAddr,
    baggage: String,
    errors: Vec<String>,
}

#[derive(Default)]
struct App {
    seen: RefCell<Vec<Seen>>,
    failed: RefCell<Vec<&'static str>>,
}

impl TunnelHandler for App {
    fn handle(&self, incoming: TunnelIncoming) -> LocalBoxFuture<'static, ()> {
        self.seen.borrow_mut().push(Seen {
            kind: incoming.kind,
            peer: incoming.peer.to_string(),
            client: incoming.client,
            baggage: incoming.baggage.encode(),
            errors: Vec::new(),
        });
        Box::pin(async move {
            match incoming.target.port() {
                CLOSED => incoming.refuse(503, "connection refused"),
                DENIED => incoming.refuse(401, "denied by policy weather/deny"),
                port => app(port, incoming).await,
            }
        })
    }

    fn failed(&self, _peer: SocketAddr, error: &super::TunnelError) {
        self.failed.borrow_mut().push(error.reason().as_str());
    }
}

async fn app(port: u16, incoming: TunnelIncoming) {
    let Ok(mut stream) = incoming.accept().await else {
        return;
    };
    match port {
        NEVER_READS => std::future::pending().await,
        SPEAKS_FIRST => {
            let _ = stream.write_all(b"welcome").await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        _ => {
            let mut buf = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = stream.read(&mut buf).await {
                if stream.write_all(&buf[..n]).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            let _ = stream.shutdown().await;
        }
    }
}

/// A server on a port of its own, and what is needed to talk to it.
struct Fixture {
    port: u16,
    app: Rc<App>,
    drain: DrainTrigger,
    accepting: tokio::task::JoinHandle<()>,
    ca: TestCa,
    source: Arc<PodHandle>,
    config: TunnelConfig,
}

impl Fixture {
    /// `native: false` makes both ends speak HBONE.
    async fn new(native: bool) -> Self {
        Self::with(TunnelConfig {
            native,
            ..TunnelConfig::default()
        })
        .await
    }

    async fn with(config: TunnelConfig) -> Self {
        let ca = TestCa::new();
        let server: Arc<dyn Certificates> = Arc::new(Fixed(ca.tls(BOB)));
        Self::serving(config, ca, server).await
    }

    async fn serving(config: TunnelConfig, ca: TestCa, certs: Arc<dyn Certificates>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Rc::new(App::default());
        let (trigger, watch) = drain();
        let config = TunnelConfig { port, ..config };
        let accepting =
            tokio::task::spawn_local(accept(listener, certs, config.clone(), Rc::clone(&app), watch));
        let source = pod(workload(ALICE, "frontend"));
        Self {
            port,
            app,
            drain: trigger,
            accepting,
            ca,
            source,
            config,
        }
    }

    fn client(&self) -> Rc<TunnelClient> {
        self.client_with(Arc::new(Fixed(self.ca.tls(ALICE))))
    }

    fn client_with(&self, certs: Arc<dyn Certificates>) -> Rc<TunnelClient> {
        TunnelClient::new(certs, self.config.clone())
    }

    fn request(&self, port: u16, kind: TunnelKind) -> TunnelRequest {
        TunnelRequest {
            pod: Arc::clone(&self.source),
            source: Arc::clone(&self.source.workload),
            client: (Ipv4Addr::LOCALHOST, 4321).into(),
            peer: id(BOB),
            target: (Ipv4Addr::LOCALHOST, port).into(),
            host: Some("forecast.weather".into()),
            kind,
        }
    }

    fn tcp(&self, port: u16) -> TunnelRequest {
        self.request(port, TunnelKind::Tcp)
    }
}

async fn accept(
    listener: TcpListener,
    certs: Arc<dyn Certificates>,
    config: TunnelConfig,
    app: Rc<App>,
    drain: DrainWatch,
) {
    let pod = pod(workload(BOB, "forecast"));
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let handler: Rc<dyn TunnelHandler> = app.clone();
        let serving = serve(
            tcp,
            Arc::clone(&pod),
            Arc::clone(&certs),
            config.clone(),
            handler,
            drain.clone(),
        );
        tokio::task::spawn_local(serving);
    }
}

/// Runs a test on one thread, with a deadline.
async fn local<T>(test: impl Future<Output = T>) -> T {
    let timed = tokio::time::timeout(Duration::from_secs(60), test);
    LocalSet::new().run_until(timed).await.expect("the test hangs")
}

/// Waits for a condition.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
