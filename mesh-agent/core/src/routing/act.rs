//! What a matching rule does with a request: CORS, faults, the answer of its own or the destination.

use super::resolve::{self, no_route};
use super::trace::Trace;
use super::{
    Answer, Decision, Draws, Held, MatchedRule, Refusal, RequestFacts, RoutePlan, Upstream, cors, session,
    url,
};
use crate::model::route::{
    AbortWith, Backend, Outcome, RequestMatch, RouteAction, RouteApi, RouteRule, Split,
};
use crate::model::snapshot::Snapshot;
use mesh_common::verdict::draw;
use std::sync::Arc;
use std::time::Duration;

/// Index into the destinations: by weight, the only one whatever its weight (T-26).
pub(super) fn pick_destination(split: &Split, random: u32) -> usize {
    let mut left = draw(random, split.total_weight);
    for (place, destination) in split.destinations.iter().enumerate() {
        if left < destination.weight {
            return place;
        }
        left -= destination.weight;
    }
    0
}

/// The destination that has the endpoint of a session: weights are for those who have none (GEP-1619).
fn destination_of(
    snapshot: &Snapshot,
    request: &RequestFacts<'_>,
    split: &Split,
    held: Held,
) -> Option<usize> {
    let has = |backend: &Backend| {
        let upstream = resolve::destination(snapshot, request, backend.host()?).ok()?;
        held.among(&upstream.endpoints)
    };
    split.destinations.iter().position(|d| has(&d.backend).is_some())
}

/// What a matching rule does. In the order of Envoy's filters: CORS, faults, the route itself.
pub(super) fn act(
    snapshot: &Snapshot,
    request: &RequestFacts<'_>,
    mut matched: MatchedRule,
    draws: Draws,
    trace: &mut impl Trace,
) -> Result<Decision, Refusal> {
    let action = Arc::clone(&matched.rule().action);
    let dress = match action
        .cors
        .as_ref()
        .map(|c| cors::judge(c, matched.table.api, request))
    {
        None | Some(cors::Verdict::NotConcerned) => Vec::new(),
        Some(cors::Verdict::Dress(fields)) => fields,
        Some(cors::Verdict::Preflight(fields)) => {
            trace.note(|| "a CORS preflight: answered here".into());
            return Ok(Decision::Answer(own(matched, 200, fields, None)));
        }
    };
    let (delay, abort) = faults(&action, draws, trace);
    if let Some(with) = abort {
        let status = match with {
            AbortWith::Http(status) => status,
            AbortWith::Grpc(_) => 200,
        };
        return Ok(Decision::Answer(Answer {
            fault: Some(with),
            ..own(matched, status, dress, delay)
        }));
    }
    match &action.outcome {
        Outcome::Redirect(redirect) => {
            let location = url::location(redirect, request, block_of(&matched));
            Ok(Decision::Answer(Answer {
                location: Some(location),
                ..own(matched, redirect.status, dress, delay)
            }))
        }
        Outcome::Respond(response) => Ok(Decision::Answer(Answer {
            body: Arc::clone(&response.body),
            ..own(matched, response.status, dress, delay)
        })),
        Outcome::Fail { status, reason } => Err(Refusal {
            status: *status,
            flag: "NR",
            detail: format!("{}: {reason}", matched.rule().origin),
        }),
        Outcome::Forward(split) => {
            let held = action.session.as_ref();
            let held = held.and_then(|s| session::held(s, request.headers, draws.now));
            if let Some(session) = &action.session {
                let shown = if held.is_some() {
                    "the client shows one"
                } else {
                    "the client has none"
                };
                trace.note(|| format!("{session}: {shown}"));
            }
            matched.destination = held
                .and_then(|held| destination_of(snapshot, request, split, held))
                .unwrap_or_else(|| pick_destination(split, draws.split));
            let mut plan = forward(snapshot, request, matched, split, draws, trace)?;
            plan.cors = dress;
            plan.delay = delay;
            Ok(Decision::Forward(plan))
        }
    }
}

/// The faults that this request gets, each by a draw of its own.
fn faults(
    action: &RouteAction,
    draws: Draws,
    trace: &mut impl Trace,
) -> (Option<Duration>, Option<AbortWith>) {
    let Some(fault) = &action.fault else {
        return (None, None);
    };
    let hit = |share: u32, random: u32| draw(random, 1_000_000) < share;
    if let Some(delay) = fault.delay {
        trace.note(|| format!("delay of {:?} for {}", delay.time, percent(delay.per_million)));
    }
    if let Some(abort) = fault.abort {
        trace.note(|| format!("abort for {}", percent(abort.per_million)));
    }
    let delay = fault.delay.filter(|d| hit(d.per_million, draws.delay));
    let abort = fault.abort.filter(|a| hit(a.per_million, draws.abort));
    (delay.map(|d| d.time), abort.map(|a| a.with))
}

fn percent(per_million: u32) -> String {
    format!("{} % of the requests", f64::from(per_million) / 10_000.0)
}

/// An answer of the proxy's own with nothing in it.
fn own(rule: MatchedRule, status: u16, cors: cors::Fields, delay: Option<Duration>) -> Answer {
    Answer {
        rule,
        status,
        location: None,
        body: Arc::default(),
        fault: None,
        cors,
        delay,
    }
}

fn block_of(matched: &MatchedRule) -> Option<&RequestMatch> {
    matched.rule().matches.get(matched.matched?)
}

fn forward(
    snapshot: &Snapshot,
    request: &RequestFacts<'_>,
    matched: MatchedRule,
    split: &Split,
    draws: Draws,
    trace: &mut impl Trace,
) -> Result<RoutePlan, Refusal> {
    let rule = matched.rule();
    let Some(chosen) = split.destinations.get(matched.destination) else {
        return Err(no_route(|| format!("{} has no destination", rule.origin)));
    };
    for d in &split.destinations {
        trace.note(|| {
            format!(
                "[{}]: {}, {} of {}",
                d.index,
                target_of(&d.backend),
                d.weight,
                split.total_weight
            )
        });
    }
    let upstream =
        backend(snapshot, request, matched.table.api, &chosen.backend).map_err(|mut refusal| {
            let origin = &rule.origin;
            let field = origin.destination_field(chosen.index);
            refusal.detail = format!("{} {} {field}: {}", origin.kind, origin.object, refusal.detail);
            refusal
        })?;
    let mirrors = mirrors(snapshot, request, rule, draws, trace);
    let rewrite = rule.action.rewrite.as_ref();
    let change = rewrite.and_then(|r| r.path.as_ref());
    let path = change.map(|change| url::changed(request.path, change, block_of(&matched)));
    let authority = rewrite.and_then(|r| r.authority.clone());
    Ok(RoutePlan {
        rule: Some(matched),
        upstream,
        mirrors,
        path,
        authority,
        cors: Vec::new(),
        delay: None,
    })
}

fn target_of(backend: &Backend) -> String {
    match backend {
        Backend::Invalid(reason) => reason.to_string(),
        Backend::Host(to) => match &to.subset {
            Some(subset) => format!("{} subset {subset}", to.host),
            None => to.host.to_string(),
        },
    }
}

/// Gateway API answers 500 for every backend that is not there (an endpoint that is not ready stays 503).
fn backend(
    snapshot: &Snapshot,
    request: &RequestFacts<'_>,
    api: RouteApi,
    backend: &Backend,
) -> Result<Upstream, Refusal> {
    match backend {
        Backend::Host(to) => resolve::destination(snapshot, request, to).map_err(|mut refusal| {
            if api == RouteApi::Gateway && refusal.flag == "NC" {
                refusal.status = 500;
            }
            refusal
        }),
        Backend::Invalid(reason) => Err(Refusal {
            status: 500,
            flag: "NC",
            detail: reason.to_string(),
        }),
    }
}

fn mirrors(
    snapshot: &Snapshot,
    request: &RequestFacts<'_>,
    rule: &RouteRule,
    draws: Draws,
    trace: &mut impl Trace,
) -> Vec<Upstream> {
    let mut mirrors = Vec::new();
    for (place, mirror) in (0_u32..).zip(&rule.action.mirrors) {
        if draw(own_draw(draws.mirror, place), 1_000_000) >= mirror.per_million {
            continue;
        }
        match resolve::destination(snapshot, request, &mirror.destination) {
            Ok(copy) => {
                trace.note(|| format!("mirror to {}", resolve::describe(&copy)));
                mirrors.push(copy);
            }
            Err(refusal) => trace.note(|| format!("no mirror: {}", refusal.detail)),
        }
    }
    mirrors
}

/// A draw for the mirror at `place`, out of one for all: what one mirror gets says nothing about what another does.
const fn own_draw(all: u32, place: u32) -> u32 {
    if place == 0 {
        return all;
    }
    // The finalizer of MurmurHash3: a bijection, so that each draw stays uniform.
    let mut x = all.wrapping_add(place.wrapping_mul(0x9e37_79b9));
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}
