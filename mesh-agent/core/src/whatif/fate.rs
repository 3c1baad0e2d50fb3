//! What becomes of a request whatever the dice say: it is decided many times, with draws spread evenly.

use super::Request;
use super::client::with_facts;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;
use crate::routing::{Decision, Draws, MatchedRule, RoutePlan, Upstream, route_request};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Decisions for one request; shares are known to one part in this many.
const TRIES: u32 = 1_000;

/// What becomes of a request, as far as rules decide it: not which endpoint of a set is picked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// The rule that takes it, `VirtualService shop/cart spec.http[0]`; `None` for the default route.
    pub rule: Option<String>,
    /// Where it goes or what is answered, each with its share in thousandths.
    pub outcomes: BTreeMap<String, u32>,
    /// Copies, each with its share in thousandths.
    pub mirrors: BTreeMap<String, u32>,
    /// Injected delays in milliseconds, each with its share in thousandths.
    pub delays_ms: BTreeMap<u128, u32>,
    /// Timeout in milliseconds; `None` = none.
    pub timeout_ms: Option<u128>,
    /// Tries after the first.
    pub retries: u32,
}

/// Decides a request in a world.
pub(super) fn of(snapshot: &Snapshot, client: &Workload, request: &Request) -> Fate {
    with_facts(snapshot, client, request, |facts| {
        let mut fate = Fate::default();
        for round in 0..TRIES {
            match route_request(snapshot, facts, draws(round)) {
                Decision::Forward(plan) => fate.forward(&plan),
                Decision::Answer(answer) => {
                    fate.taken(&answer.rule);
                    let to = answer.location.map(|l| format!(" to {l}")).unwrap_or_default();
                    let fault = if answer.fault.is_some() { " (injected)" } else { "" };
                    fate.count(format!("answer {}{to}{fault}", answer.status));
                    if let Some(delay) = answer.delay {
                        *fate.delays_ms.entry(delay.as_millis()).or_default() += 1;
                    }
                }
                Decision::Refuse(refusal) => {
                    fate.count(format!(
                        "answer {} {}: {}",
                        refusal.status, refusal.flag, refusal.detail
                    ));
                }
            }
        }
        fate
    })
}

/// Each kind of draw goes through its whole range once, in an order of its own, so that no two hang together.
fn draws(round: u32) -> Draws {
    let spread = |step: u32| {
        let place = u64::from(round) * u64::from(step) % u64::from(TRIES);
        // The middle of its part of the range; below 2^32 because `place` is below `TRIES`.
        u32::try_from((place * 2 + 1) * (1 << 31) / u64::from(TRIES)).unwrap_or(u32::MAX)
    };
    Draws {
        split: spread(1),
        // Steps without a common divisor with the number of rounds.
        mirror: spread(377),
        delay: spread(619),
        abort: spread(233),
        now: 0,
    }
}

impl Fate {
    fn count(&mut self, outcome: String) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    fn taken(&mut self, matched: &MatchedRule) {
        if self.rule.is_none() {
            self.rule = Some(matched.rule().origin.to_string());
        }
    }

    fn forward(&mut self, plan: &RoutePlan) {
        if let Some(matched) = &plan.rule {
            self.taken(matched);
        }
        self.timeout_ms = plan.timeout().map(|t| t.as_millis());
        self.retries = plan.retries().attempts;
        let mut to = name(&plan.upstream);
        if let Some(path) = &plan.path {
            let _ = write!(to, " as {path}");
        }
        if let Some(authority) = &plan.authority {
            let _ = write!(to, " with Host {authority}");
        }
        self.count(to);
        for copy in &plan.mirrors {
            *self.mirrors.entry(name(copy)).or_default() += 1;
        }
        if let Some(delay) = plan.delay {
            *self.delays_ms.entry(delay.as_millis()).or_default() += 1;
        }
    }
}

/// `shop/cart:80 subset v1`.
fn name(upstream: &Upstream) -> String {
    let mut text = match (&upstream.service, upstream.endpoints.first()) {
        (Some(service), _) => service.name.to_string(),
        (None, Some(endpoint)) => endpoint.addr.to_string(),
        (None, None) => "nowhere".into(),
    };
    if let Some(port) = &upstream.port {
        let _ = write!(text, ":{}", port.number);
    }
    if let Some(subset) = &upstream.subset {
        let _ = write!(text, " subset {subset}");
    }
    text
}
