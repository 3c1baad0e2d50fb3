//! DNS names of ServiceEntries → addresses, followed for as long as somebody asks for them.

use hickory_resolver::TokioResolver;
use mesh_core::state::Change;
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Names that are wanted now.
pub type Names = BTreeSet<Arc<str>>;

/// Has these names resolved, and no others.
pub fn want(wanted: &watch::Sender<Names>, now: &Names) {
    wanted.send_if_modified(|wanted| {
        let changed = wanted != now;
        if changed {
            wanted.clone_from(now);
        }
        changed
    });
}

/// The shortest and longest time between two questions for one name, whatever its TTL: Envoy's `dns_refresh_rate` of
/// Istio is 60 s at most.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(60);
/// After a question that was not answered.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What a name resolves to.
pub struct Answer {
    /// Addresses; empty if the name has none.
    pub ips: Vec<IpAddr>,
    /// Until when it holds.
    pub until: Instant,
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the resolver's configuration (/etc/resolv.conf)")]
pub struct NoResolver(#[source] hickory_resolver::net::NetError);

/// Asks the resolvers of `/etc/resolv.conf`.
///
/// # Errors
/// There is no such file, or it cannot be understood.
pub async fn follow_system(
    wanted: watch::Receiver<Names>,
    changes: mpsc::Sender<Vec<Change>>,
) -> Result<(), NoResolver> {
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(NoResolver)?;
    let resolver = Arc::new(resolver);
    let ask = move |name: Arc<str>| {
        let resolver = Arc::clone(&resolver);
        async move {
            // Absolute: no search list is tried.
            match resolver.lookup_ip(format!("{name}.")).await {
                Ok(found) => Ok(Answer {
                    ips: found.iter().collect(),
                    until: found.valid_until(),
                }),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    follow(wanted, changes, ask).await;
    Ok(())
}

/// Follows names. Without a resolver the mesh goes on, and hosts that need one have no endpoints.
pub async fn follow_on_demand(wanted: watch::Receiver<Names>, changes: mpsc::Sender<Vec<Change>>) {
    let mut first = wanted.clone();
    if first.wait_for(|names| !names.is_empty()).await.is_err() {
        return;
    }
    if let Err(error) = follow_system(wanted, changes).await {
        tracing::error!(error = %crate::errors::chain(&error), "names of ServiceEntries are not resolved");
    }
}

/// Asks `ask` for each wanted name, again and again. A name that cannot be resolved keeps the addresses that it had.
pub async fn follow<A, F>(mut wanted: watch::Receiver<Names>, changes: mpsc::Sender<Vec<Change>>, ask: A)
where
    A: Fn(Arc<str>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, String>> + Send + 'static,
{
    let mut running: HashMap<Arc<str>, JoinHandle<()>> = HashMap::new();
    loop {
        let names = wanted.borrow_and_update().clone();
        running.retain(|name, task| {
            let kept = names.contains(name);
            if !kept {
                task.abort();
            }
            kept
        });
        for name in names {
            running
                .entry(Arc::clone(&name))
                .or_insert_with(|| tokio::spawn(one(name, changes.clone(), ask.clone())));
        }
        if wanted.changed().await.is_err() {
            running.into_values().for_each(|task| task.abort());
            return;
        }
    }
}

async fn one<A, F>(name: Arc<str>, changes: mpsc::Sender<Vec<Change>>, ask: A)
where
    A: Fn(Arc<str>) -> F,
    F: Future<Output = Result<Answer, String>>,
{
    loop {
        let pause = match ask(Arc::clone(&name)).await {
            Ok(answer) => {
                let change = Change::Resolved {
                    name: Arc::clone(&name),
                    ips: answer.ips,
                };
                if changes.send(vec![change]).await.is_err() {
                    return;
                }
                let left = answer.until.saturating_duration_since(Instant::now());
                left.clamp(SOONEST, LATEST)
            }
            Err(error) => {
                tracing::warn!(%name, error, "a name of a ServiceEntry cannot be resolved");
                AFTER_FAILURE
            }
        };
        // Many names that were asked for together are not asked for together again.
        tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn names(names: &[&str]) -> Names {
        names.iter().map(|n| Arc::from(*n)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_again_when_its_answer_has_run_out_and_no_more_when_nobody_wants_it() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let ask = move |name: Arc<str>| {
            let n = count.fetch_add(1, Ordering::Relaxed);
            async move {
                assert_eq!(&*name, "a.example.com");
                if n == 1 {
                    return Err("SERVFAIL".to_owned());
                }
                let until = Instant::now();
                let ips = vec![IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()])];
                Ok(Answer { ips, until })
            }
        };
        let (want, wanted) = watch::channel(names(&["a.example.com"]));
        let (sender, mut changes) = mpsc::channel(1);
        tokio::spawn(follow(wanted, sender, ask));
        let mut seen = Vec::new();
        for _ in 0..2 {
            match changes.recv().await.unwrap().as_slice() {
                [Change::Resolved { ips, .. }] => seen.push(ips[0].to_string()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, ["192.0.2.0", "192.0.2.2"], "the failure changed nothing");
        want.send(names(&[])).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        while changes.try_recv().is_ok() {}
        let before = asked.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(asked.load(Ordering::Relaxed), before);
    }
}
