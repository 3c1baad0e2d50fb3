//! `loadBalancer`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// `loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancer {
    /// `simple` or `consistentHash`.
    pub algorithm: Algorithm,
    /// `warmup`.
    pub warmup: Option<Warmup>,
    /// `localityLbSetting`; `None` = the mesh's: failover by locality where outliers are detected (T-35).
    pub locality: Option<LocalitySetting>,
}

/// How one of several endpoints is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `simple`.
    Simple(Simple),
    /// `consistentHash`.
    Hash(ConsistentHash),
}

impl Default for Algorithm {
    fn default() -> Self {
        Self::Simple(Simple::default())
    }
}

/// `simple`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Simple {
    /// The less loaded of two drawn at random; also `UNSPECIFIED` and `LEAST_CONN`.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The address that the application dialled.
    Passthrough,
}

/// `consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What is hashed.
    pub key: HashKey,
    /// How a hash becomes an endpoint.
    pub table: HashTable,
}

/// What stays with one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// `httpHeaderName`, lower case.
    Header(Arc<str>),
    /// `httpCookie`.
    Cookie(Cookie),
    /// `useSourceIp`; the only one that plain TCP has.
    SourceIp,
    /// `httpQueryParameterName`.
    Query(Arc<str>),
}

/// `httpCookie`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// `name`.
    pub name: Arc<str>,
    /// `path`, empty if none.
    pub path: Arc<str>,
    /// `ttl`: given, the cookie is made where it is missing; zero = for the session of the user agent.
    pub ttl: Option<Duration>,
    /// `attributes`: name and value, which may be empty.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// How a hash becomes an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTable {
    /// `ringHash.minimumRingSize`.
    Ring(u32),
    /// `maglev.tableSize`, a prime.
    Maglev(u32),
}

/// `warmup`: a new endpoint gets its share little by little.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Warmup {
    /// `duration`.
    pub duration: Duration,
    /// `minimumPercent`, 0 to 100.
    pub minimum_percent: u32,
    /// `aggression` in thousandths: 1000 = linear.
    pub aggression_thousandths: u32,
}

impl Warmup {
    /// The share of its full weight that an endpoint of this age has, 0 to 1 (Envoy, slow start).
    #[must_use]
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.duration {
            return 1.0;
        }
        let progress = age.as_secs_f64().max(1e-3) / self.duration.as_secs_f64().max(1e-3);
        let aggression = (f64::from(self.aggression_thousandths) / 1e3).max(1e-3);
        progress
            .powf(1.0 / aggression)
            .clamp(f64::from(self.minimum_percent) / 100.0, 1.0)
    }
}

/// `localityLbSetting`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalitySetting {
    /// `enabled: false`.
    pub disabled: bool,
    /// `distribute`.
    pub distribute: Vec<Distribute>,
    /// `failover`.
    pub failover: Vec<Failover>,
    /// `failoverPriority`.
    pub priority: Vec<FailoverLabel>,
}

/// One of `distribute`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribute {
    /// `from`.
    pub from: LocalityPattern,
    /// `to`: where to, and its share of 100.
    pub to: Vec<(LocalityPattern, u32)>,
}

/// One of `failover`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// `from`, a region.
    pub from: Arc<str>,
    /// `to`, a region.
    pub to: Arc<str>,
}

/// One of `failoverPriority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverLabel {
    /// The label.
    pub name: Arc<str>,
    /// `name=value`: the value that endpoints must have, instead of the client's own.
    pub value: Option<Arc<str>>,
}

/// `region/zone/subzone`, each of which may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityPattern {
    /// Up to three parts; `*` or missing = any.
    pub parts: Vec<Arc<str>>,
}

impl LocalityPattern {
    /// Whether a locality, as region, zone and subzone, is meant.
    #[must_use]
    pub fn covers(&self, locality: [&str; 3]) -> bool {
        self.parts
            .iter()
            .zip(locality)
            .all(|(wanted, is)| matches!(&**wanted, "*" | "") || **wanted == *is)
    }
}

impl fmt::Display for LocalityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("/"))
    }
}

impl LoadBalancer {
    pub(super) fn describe(&self) -> String {
        let mut text = match &self.algorithm {
            Algorithm::Simple(Simple::LeastRequest) => "LEAST_REQUEST".to_owned(),
            Algorithm::Simple(Simple::RoundRobin) => "ROUND_ROBIN".into(),
            Algorithm::Simple(Simple::Random) => "RANDOM".into(),
            Algorithm::Simple(Simple::Passthrough) => "PASSTHROUGH".into(),
            Algorithm::Hash(hash) => format!("consistent hash of {}", hash.key),
        };
        if self.warmup.is_some() {
            text.push_str(" with warmup");
        }
        match &self.locality {
            Some(l) if !l.distribute.is_empty() => text.push_str(", distributed by locality"),
            Some(l) if !l.priority.is_empty() => text.push_str(", failover by labels"),
            Some(l) if !l.failover.is_empty() => text.push_str(", failover by region"),
            _ => {}
        }
        text
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(cookie) => write!(f, "cookie {}", cookie.name),
            Self::SourceIp => f.write_str("the client's address"),
            Self::Query(name) => write!(f, "query parameter {name}"),
        }
    }
}
