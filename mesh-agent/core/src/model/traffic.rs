//! How a destination's endpoints are used: what the `trafficPolicy` of DestinationRules comes to.
//!
//! Semantics are those of `networking.istio.io` DestinationRule. A [`PolicySpec`] is one level as it is written; a
//! [`TrafficPolicy`] is what the levels come to for one port of one service or subset, with the defaults filled in.

mod backend;
mod balancer;
mod pool;
mod transport;

pub use backend::{BackendPolicy, Carrier, Persistence, RetryConstraint};
pub use balancer::{
    Algorithm, ConsistentHash, Cookie, Distribute, Failover, FailoverLabel, HashKey, HashTable, LoadBalancer,
    LocalityPattern, LocalitySetting, Simple, Warmup,
};
pub use pool::{ConnectionPool, HttpSettings, Keepalive, RetryBudget, TcpSettings};
pub use transport::{ClientTls, ProxyProtocol, TlsMode, Vouched};

use super::ObjectName;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The policy of one port of a service or subset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// `loadBalancer`.
    pub load_balancer: LoadBalancer,
    /// `connectionPool`.
    pub connection_pool: ConnectionPool,
    /// `outlierDetection`; nothing is ejected without.
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`; `None` = mutual TLS with the mesh's identities wherever the endpoint can (T-72).
    pub tls: Option<ClientTls>,
    /// `proxyProtocol`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `retryBudget`.
    pub retry_budget: Option<RetryBudget>,
    /// The DestinationRules that it comes from; empty for the mesh's defaults.
    pub objects: Vec<ObjectName>,
}

/// `outlierDetection`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutlierDetection {
    /// `consecutive5xxErrors`; 0 = off.
    pub server_errors: u32,
    /// `consecutiveGatewayErrors`: 502, 503, 504; 0 = off (T-37).
    pub gateway_errors: u32,
    /// `consecutiveLocalOriginFailures`, counted only where `split`; 0 = off.
    pub local_failures: u32,
    /// `splitExternalLocalOriginErrors`.
    pub split: bool,
    /// `interval`: how often it is looked whether an ejection is over.
    pub interval: Duration,
    /// `baseEjectionTime`: times the number of ejections so far.
    pub base_ejection: Duration,
    /// `maxEjectionPercent`.
    pub max_ejection_percent: u32,
    /// `minHealthPercent`: with fewer healthy endpoints than this, ejections do not count.
    pub min_health_percent: u32,
    /// `outlierDetectionHttpErrorCodes`: if there are any, only these statuses are errors.
    pub codes: Vec<u16>,
}

impl Default for OutlierDetection {
    /// The defaults of an empty `outlierDetection: {}` (DestinationRule, `OutlierDetection`).
    fn default() -> Self {
        Self {
            server_errors: 5,
            gateway_errors: 0,
            local_failures: 5,
            split: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
            codes: Vec::new(),
        }
    }
}

/// One level of a `trafficPolicy` as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// The blocks that a port may override.
    pub blocks: Blocks,
    /// `portLevelSettings`: port number → what stands in the place of all four blocks.
    pub ports: Vec<(u16, Blocks)>,
    /// `proxyProtocol`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `retryBudget`.
    pub retry_budget: Option<RetryBudget>,
}

/// The blocks of a level, each `None` if it is not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`.
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`.
    pub tls: Option<ClientTls>,
}

impl TrafficPolicy {
    /// What applies where no DestinationRule does: least request, ten seconds to connect, no limits. One allocation.
    #[must_use]
    pub fn mesh_default() -> Arc<Self> {
        static DEFAULT: OnceLock<Arc<TrafficPolicy>> = OnceLock::new();
        Arc::clone(DEFAULT.get_or_init(Arc::default))
    }

    /// What the levels of a host and of one of its subsets come to for `port`.
    ///
    /// A block of the subset replaces the host's, and the entry of a level's `portLevelSettings` replaces all four
    /// blocks at once: what it leaves out is the default, not inherited (T-28, pilot `MergeTrafficPolicy`).
    #[must_use]
    pub fn merged(levels: &[&PolicySpec], port: u16, objects: Vec<ObjectName>) -> Self {
        let mut blocks = Blocks::default();
        let mut merged = Self::default();
        for level in levels {
            let over = &level.blocks;
            replace(&mut blocks.load_balancer, &over.load_balancer);
            replace(&mut blocks.connection_pool, &over.connection_pool);
            replace(&mut blocks.outlier_detection, &over.outlier_detection);
            replace(&mut blocks.tls, &over.tls);
            replace(&mut merged.proxy_protocol, &level.proxy_protocol);
            replace(&mut merged.retry_budget, &level.retry_budget);
            if let Some((_, of_port)) = level.ports.iter().find(|(number, _)| *number == port) {
                blocks = of_port.clone();
            }
        }
        merged.load_balancer = blocks.load_balancer.unwrap_or_default();
        merged.connection_pool = blocks.connection_pool.unwrap_or_default();
        merged.outlier_detection = blocks.outlier_detection;
        merged.tls = blocks.tls;
        merged.objects = objects;
        merged
    }

    /// Whether the kernel's own choice among backends does all that this policy asks for.
    #[must_use]
    pub fn kernel_can(&self) -> bool {
        let balancing = &self.load_balancer;
        // In the kernel the draw is random, which is what it does for the default as well.
        let balanced = matches!(
            balancing.algorithm,
            Algorithm::Simple(Simple::LeastRequest | Simple::Random)
        ) && balancing.warmup.is_none()
            && balancing
                .locality
                .as_ref()
                .is_none_or(|l| l.distribute.is_empty());
        balanced
            && self.connection_pool.tcp == TcpSettings::default()
            && self.outlier_detection.is_none()
            && self.tls.as_ref().is_none_or(|tls| tls.mode == TlsMode::Mesh)
            && self.proxy_protocol.is_none()
    }

    /// One line for people: what is not the default.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut parts = vec![self.load_balancer.describe()];
        let pool = self.connection_pool.describe();
        parts.extend((!pool.is_empty()).then_some(pool));
        if let Some(outliers) = &self.outlier_detection {
            parts.push(format!(
                "outlier detection (at most {} % ejected)",
                outliers.max_ejection_percent
            ));
        }
        parts.extend(self.tls.as_ref().map(ClientTls::describe));
        parts.extend(
            self.proxy_protocol
                .map(|version| format!("PROXY protocol {version:?}")),
        );
        parts.join(", ")
    }
}

fn replace<T: Clone>(old: &mut Option<T>, new: &Option<T>) {
    if new.is_some() {
        old.clone_from(new);
    }
}

impl Blocks {
    /// Whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl PolicySpec {
    /// Whether nothing is written (T-29: the first policy that says something is kept).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests;
