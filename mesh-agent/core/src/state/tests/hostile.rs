//! A thousand objects that nobody should have to take, one after the other and all at once.

#[path = "../../../../../tests/src/hostile.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the suites")]
mod objects;

use super::*;
use crate::testing::Request;

const TARGET: objects::Target<'static> = objects::Target {
    host: "forecast.weather.svc.cluster.local",
    address: "10.96.0.32",
};

fn outcome(state: &mut State) -> String {
    Request::default().outcome(&state.snapshot())
}

#[test]
fn a_thousand_hostile_objects_are_refused_by_name_or_honoured_and_a_good_rule_goes_on() {
    let mut state = state(&format!("{WEATHER}\n---\n{}", virtual_service("routes", ROUTE)));
    let good = outcome(&mut state);
    assert_eq!(good, "r");
    let mut silent = Vec::new();
    for (n, hostile) in objects::objects(1, 1_000, TARGET).into_iter().enumerate() {
        let origin = format!("hostile-{n}.yaml");
        apply(&mut state, hostile.object.clone(), &origin);
        if n % 100 == 0 {
            assert_eq!(outcome(&mut state), good, "{}", hostile.what);
        }
        if hostile.refused {
            silent.push((origin, hostile));
        }
    }
    assert_eq!(outcome(&mut state), good);
    let problems = state.problems();
    silent.retain(|(origin, _)| {
        !problems
            .iter()
            .any(|p| p.origin == *origin && !p.rejected.reason.is_empty())
    });
    let silent: Vec<String> = silent
        .iter()
        .map(|(_, h)| format!("{}: {:.300}", h.what, h.object.to_string()))
        .collect();
    assert!(
        silent.is_empty(),
        "taken without a word: {}\n{}",
        silent.len(),
        silent.join("\n")
    );
    let long = problems.iter().find(|p| p.rejected.to_string().len() > 2_000);
    assert!(long.is_none(), "{long:?}");
    for kind in ["VirtualService", "DestinationRule", "ServiceEntry"] {
        let named = |p: &&Problem| p.rejected.object.starts_with(&format!("{kind} hostile/hostile-"));
        assert!(problems.iter().filter(named).count() > 20, "{kind}");
    }
}
