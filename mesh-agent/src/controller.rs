//! The controller: the mesh's CA, what agents need to know of other nodes' pods, and the word on objects that are
//! refused. Two replicas: both sign and validate, one (the leader) writes.
//!
//! A program of its own beside the agent: like `app` it names what it wires together.

pub mod authority;
mod bucket;
pub mod ca;
pub mod config;
pub mod crd;
pub mod csr;
pub mod decision;
pub mod gateways;
pub mod lease;
pub mod metrics;
pub mod pods;
pub mod publish;
pub mod refusals;
pub mod reviews;
pub mod secret;
pub mod serve;
pub mod status;
pub mod templates;
pub mod watching;
pub mod webhook;

use crate::ca::system_clock;
use crate::controller::ca::CertificateService;
use crate::controller::metrics::Metrics;
use crate::controller::reviews::Reviews;
use crate::controller::secret::Keeper;
use crate::controller::serve::{Protocol, ServingCertificate};
use crate::controller::webhook::Webhook;
use anyhow::Context;
use arc_swap::ArcSwapOption;
use authority::Authority;
use config::ControllerConfig;
use parking_lot::{Mutex, RwLock};
use pods::PodIndex;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Runs the controller until SIGTERM or SIGINT.
///
/// # Errors
/// No API server to talk to, or an address that cannot be had.
pub fn run(config: ControllerConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let client = kube::Client::try_default()
            .await
            .context("no way to the API server: neither in a cluster nor a kubeconfig")?;
        let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
        let until = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve(config, client, until).await
    })
}

/// Serves until `until`. For tests: on any client.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    config: ControllerConfig,
    client: kube::Client,
    until: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let ca = serve::listen(config.ca_addr, "certificates").await?;
    let validation = serve::listen(config.webhook_addr, "the webhook").await?;
    let figures = serve::listen(config.metrics_addr, "metrics").await?;
    let metrics = Arc::new(Metrics::default());
    let authority: Arc<ArcSwapOption<Authority>> = Arc::default();
    let pods: Arc<RwLock<PodIndex>> = Arc::default();
    let board: Arc<Mutex<refusals::Board>> = Arc::default();
    let certificate = Arc::new(ServingCertificate::default());
    let me = name();
    let (stop, stopped) = watch::channel(false);
    let (election, leader) = lease::Election::new(
        client.clone(),
        &config.namespace,
        me.clone(),
        Arc::clone(&metrics),
    );
    let election = tokio::spawn(election.run(stopped));

    let mut tasks = JoinSet::new();
    let keeper = Keeper {
        client: client.clone(),
        namespace: config.namespace.clone(),
        trust_domain: config.trust_domain.clone(),
        retirement: config.max_cert_ttl,
        authority: Arc::clone(&authority),
        leader: leader.clone(),
        metrics: Arc::clone(&metrics),
        clock: system_clock(),
    };
    tasks.spawn(keeper.run());
    tasks.spawn(Arc::clone(&certificate).keep(Arc::clone(&authority), config.names(), system_clock()));
    tasks.spawn(publish::run(
        client.clone(),
        Arc::clone(&pods),
        leader.clone(),
        Arc::clone(&metrics),
    ));
    for kind in refusals::KINDS {
        tasks.spawn(refusals::follow(
            client.clone(),
            kind,
            config.settings(),
            Arc::clone(&board),
            Arc::clone(&metrics),
        ));
    }
    start_status(&mut tasks, &config, &client, &leader, &metrics);
    tasks.spawn(refusals::report(client.clone(), me, board, leader.clone()));
    tasks.spawn(webhook::register(
        client.clone(),
        Arc::clone(&authority),
        leader,
        Arc::clone(&metrics),
    ));
    let service = Arc::new(CertificateService {
        authority: Arc::clone(&authority),
        pods: Arc::clone(&pods),
        policy: config.policy(),
        client,
        reviews: Reviews::default(),
        metrics: Arc::clone(&metrics),
        clock: system_clock(),
    });
    let h2 = certificate.config(Protocol::Http2).context("TLS")?;
    tasks.spawn(serve::tls(ca, h2, Protocol::Http2, move |request| {
        Arc::clone(&service).handle(request)
    }));
    let webhook = Arc::new(Webhook {
        settings: config.settings(),
        metrics: Arc::clone(&metrics),
    });
    let h1 = certificate.config(Protocol::Http1).context("TLS")?;
    tasks.spawn(serve::tls(validation, h1, Protocol::Http1, move |request| {
        Arc::clone(&webhook).handle(request)
    }));
    tasks.spawn(serve::metrics(
        figures,
        metrics,
        readiness(authority, certificate, pods),
    ));
    tracing::info!(ca = %config.ca_addr, webhook = %config.webhook_addr, "serving");
    tokio::select! {
        () = until => {}
        Some(ended) = tasks.join_next() => anyhow::bail!("a task of the controller ended: {ended:?}"),
    }
    let _told = stop.send(true);
    election.await.context("give the lease back")
}

/// What is said of routes and Gateways, and what Gateways are made of: the one needs the other.
fn start_status(
    tasks: &mut JoinSet<()>,
    config: &ControllerConfig,
    client: &kube::Client,
    leader: &watch::Receiver<bool>,
    metrics: &Arc<Metrics>,
) {
    let (plans, planned) = watch::channel(None);
    let (running, made) = watch::channel(None);
    let deploys = config.gateway_template.is_some();
    if let Some(template) = config.gateway_template.clone() {
        let wiring = gateways::Wiring {
            template,
            namespace: config.namespace.clone(),
            plans: planned,
            running,
            leader: leader.clone(),
            metrics: Arc::clone(metrics),
        };
        tasks.spawn(gateways::run(client.clone(), wiring));
    }
    let gateways = deploys.then_some(status::Gateways { plans, made });
    tasks.spawn(status::run(
        client.clone(),
        config.settings(),
        gateways,
        leader.clone(),
        Arc::clone(metrics),
    ));
}

/// Ready to sign: a key, a certificate to show, and every pod listed.
fn readiness(
    authority: Arc<ArcSwapOption<Authority>>,
    certificate: Arc<ServingCertificate>,
    pods: Arc<RwLock<PodIndex>>,
) -> Arc<dyn Fn() -> Result<(), String> + Send + Sync> {
    Arc::new(move || {
        if authority.load().is_none() {
            return Err("the CA has no key yet".to_owned());
        }
        if !certificate.shown() {
            return Err("no serving certificate yet".to_owned());
        }
        match pods.read().complete() {
            true => Ok(()),
            false => Err("the pods of the cluster are still being listed".to_owned()),
        }
    })
}

/// The pod's name, made distinct: two processes of one pod are two candidates.
fn name() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "heddle-controller".to_owned());
    format!("{host}_{:08x}", fastrand::u32(..))
}

#[cfg(test)]
mod tests;
