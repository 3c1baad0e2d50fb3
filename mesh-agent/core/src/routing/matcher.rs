//! Finds table, rule and destination of a request.

use super::{Decision, Draws, Refusal, RequestFacts, Upstream};
use crate::model::snapshot::{Snapshot, Target};

pub(super) fn route_request(_: &Snapshot, _: &RequestFacts<'_>, _: Draws) -> Decision {
    Decision::Refuse(Refusal { status: 404, flag: "NR", detail: String::new() })
}
pub(super) fn route_connection(_: &Target, _: u16) -> Result<Upstream, Refusal> {
    Err(Refusal { status: 404, flag: "NR", detail: String::new() })
}
pub(super) fn explain_request(_: &Snapshot, _: &RequestFacts<'_>) -> Vec<String> {
    Vec::new()
}
