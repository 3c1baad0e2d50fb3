//! What is wrong with config, in the log.

use mesh_core::state::Problem;
use std::collections::HashSet;

/// Logs what is new among `now`, which takes the place of `known`.
pub(crate) fn follow(known: &mut Vec<Problem>, now: Vec<Problem>) {
    let before: HashSet<&Problem> = known.iter().collect();
    for problem in now.iter().filter(|problem| !before.contains(problem)) {
        let rejected = &problem.rejected;
        tracing::warn!(
            origin = problem.origin,
            object = rejected.object,
            field = rejected.field,
            reason = rejected.reason,
            last_good_in_force = problem.last_good_in_force,
            "config problem"
        );
    }
    *known = now;
}
