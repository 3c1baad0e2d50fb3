//! `loadBalancer`.

use super::policy::{thousandths, time};
use super::raw;
use crate::model::traffic::{
    Algorithm, ConsistentHash, Cookie, Distribute, Failover, FailoverLabel, HashKey, HashTable, LoadBalancer,
    LocalityPattern, LocalitySetting, Simple, Warmup,
};
use crate::translate::value::{FieldError, is_header_name};
use std::sync::Arc;

/// The largest ring or table: what is larger costs every node more memory than a hash is worth.
const MAX_TABLE: u64 = 1 << 20;
const DEFAULT_RING: u32 = 1_024;
const DEFAULT_MAGLEV: u32 = 65_537;
/// `warmup.minimumPercent` where nothing is written.
const DEFAULT_MINIMUM: f64 = 10.0;

pub(super) fn load_balancer(at: &str, raw: raw::LoadBalancer) -> Result<LoadBalancer, FieldError> {
    if raw.simple.is_some() && raw.consistent_hash.is_some() {
        return Err(FieldError::new(
            format!("{at}.consistentHash"),
            "only one of simple and consistentHash can be set",
        ));
    }
    let algorithm = match (raw.simple, raw.consistent_hash) {
        (_, Some(hash)) => Algorithm::Hash(consistent_hash(&format!("{at}.consistentHash"), hash)?),
        (Some(simple), None) => Algorithm::Simple(self::simple(at, &simple)?),
        (None, None) => Algorithm::default(),
    };
    let warmup = warmup(at, raw.warmup, raw.warmup_duration_secs)?;
    let slow_start = matches!(
        algorithm,
        Algorithm::Simple(Simple::LeastRequest | Simple::RoundRobin)
    );
    if warmup.is_some() && !slow_start {
        return Err(FieldError::new(
            format!("{at}.warmup"),
            "only ROUND_ROBIN and LEAST_REQUEST can warm up",
        ));
    }
    let locality = raw
        .locality_lb_setting
        .map(|l| locality(&format!("{at}.localityLbSetting"), l))
        .transpose()?;
    Ok(LoadBalancer {
        algorithm,
        warmup,
        locality,
    })
}

fn simple(at: &str, name: &str) -> Result<Simple, FieldError> {
    match name {
        "UNSPECIFIED" | "LEAST_CONN" | "LEAST_REQUEST" => Ok(Simple::LeastRequest),
        "ROUND_ROBIN" => Ok(Simple::RoundRobin),
        "RANDOM" => Ok(Simple::Random),
        "PASSTHROUGH" => Ok(Simple::Passthrough),
        other => Err(FieldError::new(
            format!("{at}.simple"),
            format!("{other:?} is not known: expected LEAST_REQUEST, ROUND_ROBIN, RANDOM or PASSTHROUGH"),
        )),
    }
}

fn warmup(at: &str, raw: Option<raw::Warmup>, old: Option<String>) -> Result<Option<Warmup>, FieldError> {
    let (duration, minimum, aggression) = match (raw, old) {
        (Some(raw), _) => (
            time(at, "warmup.duration", Some(raw.duration))?,
            raw.minimum_percent.unwrap_or(DEFAULT_MINIMUM),
            raw.aggression.unwrap_or(1.0),
        ),
        (None, old) => (time(at, "warmupDurationSecs", old)?, DEFAULT_MINIMUM, 1.0),
    };
    if !(0.0..=100.0).contains(&minimum) {
        return Err(FieldError::new(
            format!("{at}.warmup.minimumPercent"),
            "expected 0 to 100",
        ));
    }
    if !(1.0..=1_000.0).contains(&aggression) {
        return Err(FieldError::new(
            format!("{at}.warmup.aggression"),
            "expected 1 to 1000",
        ));
    }
    Ok(duration.filter(|d| !d.is_zero()).map(|duration| Warmup {
        duration,
        minimum_percent: minimum.round() as u32,
        aggression_thousandths: thousandths(aggression),
    }))
}

fn consistent_hash(at: &str, raw: raw::ConsistentHash) -> Result<ConsistentHash, FieldError> {
    let table = hash_table(at, &raw)?;
    let mut keys = Vec::new();
    if let Some(name) = raw.http_header_name {
        if !is_header_name(&name) {
            return Err(FieldError::new(
                format!("{at}.httpHeaderName"),
                "is no header name",
            ));
        }
        keys.push(HashKey::Header(name.to_ascii_lowercase().into()));
    }
    if let Some(raw) = raw.http_cookie {
        keys.push(HashKey::Cookie(cookie(&format!("{at}.httpCookie"), raw)?));
    }
    if raw.use_source_ip == Some(true) {
        keys.push(HashKey::SourceIp);
    }
    if let Some(name) = raw.http_query_parameter_name {
        keys.push(HashKey::Query(name.into()));
    }
    if keys.len() > 1 {
        return Err(FieldError::new(at, "only one hash key can be set"));
    }
    let key = keys.pop().ok_or_else(|| {
        FieldError::new(
            at,
            "needs one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName",
        )
    })?;
    Ok(ConsistentHash { key, table })
}

fn hash_table(at: &str, raw: &raw::ConsistentHash) -> Result<HashTable, FieldError> {
    let fits = |field: &str, size: u64| match u32::try_from(size) {
        Ok(small) if size <= MAX_TABLE => Ok(small),
        _ => Err(FieldError::new(
            format!("{at}.{field}"),
            format!("is more than {MAX_TABLE}, the most that a node keeps"),
        )),
    };
    if raw.ring_hash.is_some() && raw.maglev.is_some() {
        return Err(FieldError::new(
            format!("{at}.maglev"),
            "only one of ringHash and maglev can be set",
        ));
    }
    if let Some(maglev) = &raw.maglev {
        let Some(size) = maglev.table_size else {
            return Ok(HashTable::Maglev(DEFAULT_MAGLEV));
        };
        let size = fits("maglev.tableSize", size)?;
        if !is_prime(size) {
            return Err(FieldError::new(
                format!("{at}.maglev.tableSize"),
                "must be a prime number",
            ));
        }
        return Ok(HashTable::Maglev(size));
    }
    let (field, size) = match &raw.ring_hash {
        Some(ring) => ("ringHash.minimumRingSize", ring.minimum_ring_size),
        None => ("minimumRingSize", raw.minimum_ring_size),
    };
    match size.filter(|size| *size > 0) {
        None => Ok(HashTable::Ring(DEFAULT_RING)),
        Some(size) => Ok(HashTable::Ring(fits(field, size)?)),
    }
}

fn is_prime(n: u32) -> bool {
    n >= 2
        && (2..)
            .take_while(|d: &u32| d.saturating_mul(*d) <= n)
            .all(|d| !n.is_multiple_of(d))
}

fn cookie(at: &str, raw: raw::Cookie) -> Result<Cookie, FieldError> {
    // A cookie's name is a token (RFC 6265 § 4.1.1); what follows it ends at a semicolon.
    if !is_header_name(&raw.name) {
        return Err(FieldError::new(format!("{at}.name"), "is no cookie name"));
    }
    let text = |field: String, text: String| {
        let clean = text.len() <= 1_024 && text.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b';');
        if clean {
            Ok(Arc::<str>::from(text))
        } else {
            Err(FieldError::new(field, "has a semicolon or a control character"))
        }
    };
    let mut attributes = Vec::new();
    for (i, attribute) in raw.attributes.into_iter().flatten().enumerate() {
        let at = format!("{at}.attributes[{i}]");
        attributes.push((
            text(format!("{at}.name"), attribute.name)?,
            text(format!("{at}.value"), attribute.value.unwrap_or_default())?,
        ));
    }
    Ok(Cookie {
        name: raw.name.into(),
        path: text(format!("{at}.path"), raw.path.unwrap_or_default())?,
        ttl: time(at, "ttl", raw.ttl)?,
        attributes,
    })
}

fn locality(at: &str, raw: raw::LocalityLbSetting) -> Result<LocalitySetting, FieldError> {
    let distribute = raw.distribute.unwrap_or_default();
    let failover = raw.failover.unwrap_or_default();
    let priority = raw.failover_priority.unwrap_or_default();
    let fails_over = !failover.is_empty() || !priority.is_empty();
    if !distribute.is_empty() && fails_over {
        return Err(FieldError::new(
            format!("{at}.distribute"),
            "can not simultaneously specify 'distribute' and 'failover' or 'failoverPriority'",
        ));
    }
    let mut failovers = Vec::new();
    for (i, raw) in failover.into_iter().enumerate() {
        let at = format!("{at}.failover[{i}]");
        if raw.from == raw.to {
            return Err(FieldError::new(format!("{at}.to"), "fails over to itself"));
        }
        if raw.to.contains(['*', '/']) || raw.from.contains(['*', '/']) {
            return Err(FieldError::new(at, "names regions, without zone and without *"));
        }
        failovers.push(Failover {
            from: raw.from.into(),
            to: raw.to.into(),
        });
    }
    Ok(LocalitySetting {
        disabled: raw.enabled == Some(false),
        distribute: distribute
            .into_iter()
            .enumerate()
            .map(|(i, raw)| self::distribute(&format!("{at}.distribute[{i}]"), raw))
            .collect::<Result<_, _>>()?,
        failover: failovers,
        priority: priority.iter().map(|label| failover_label(label)).collect(),
    })
}

fn distribute(at: &str, raw: raw::Distribute) -> Result<Distribute, FieldError> {
    let mut sum = 0_u32;
    let mut to = Vec::new();
    for (place, weight) in raw.to {
        let field = format!("{at}.to.{place}");
        if !(1..=100).contains(&weight) {
            return Err(FieldError::new(
                field,
                "locality weight must be in range [1, 100]",
            ));
        }
        sum += weight;
        let pattern = pattern(&field, &place)?;
        to.push((pattern, weight));
    }
    if sum != 100 {
        return Err(FieldError::new(
            format!("{at}.to"),
            format!("total locality weight {sum} != 100"),
        ));
    }
    Ok(Distribute {
        from: pattern(&format!("{at}.from"), &raw.from)?,
        to,
    })
}

fn pattern(field: &str, text: &str) -> Result<LocalityPattern, FieldError> {
    let parts: Vec<Arc<str>> = text.split('/').map(Into::into).collect();
    let empty = parts.iter().any(|part| part.is_empty());
    let inner = text.strip_suffix('*').unwrap_or(text);
    if empty || parts.len() > 3 || inner.contains('*') {
        return Err(FieldError::new(
            field,
            "is no locality: write region/zone/subzone, with * only as the last part",
        ));
    }
    Ok(LocalityPattern { parts })
}

fn failover_label(text: &str) -> FailoverLabel {
    match text.split_once('=') {
        Some((name, value)) => FailoverLabel {
            name: name.into(),
            value: Some(value.into()),
        },
        None => FailoverLabel {
            name: text.into(),
            value: None,
        },
    }
}
