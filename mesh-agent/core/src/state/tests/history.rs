//! Any order of changes: what counts is what is there in the end.

use super::remote::{delete, endpoint, local_pod, namespace, node, put, service, slice, template};
use super::*;
use crate::datapath::{Basis, NodeFacts, Plan, plan};
use crate::model::workload::Workload;
use serde_json::json;

/// One object of a small mesh, there or not.
#[derive(Clone, Debug)]
enum Step {
    Namespace(Option<bool>),
    Service(u8, bool),
    Slice(u8, Option<Vec<(u8, u8, u8)>>),
    Template(u8, Option<u8>),
    Local(u8, Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = prop::collection::vec((0..5_u8, 0..6_u8, 0..3_u8), 0..4);
    prop_oneof![
        prop::option::of(any::<bool>()).prop_map(Step::Namespace),
        (0..2_u8, any::<bool>()).prop_map(|(s, there)| Step::Service(s, there)),
        (0..4_u8, prop::option::of(endpoints)).prop_map(|(s, e)| Step::Slice(s, e)),
        (0..4_u8, prop::option::of(0..3_u8)).prop_map(|(t, v)| Step::Template(t, v)),
        (0..5_u8, prop::option::of(0..6_u8)).prop_map(|(p, ip)| Step::Local(p, ip)),
    ]
}

const PODS: [&str; 5] = ["web-a", "web-b", "web-x-a", "other-0", "lone"];
const PREFIXES: [&str; 4] = ["web-", "web-x-", "other-", "web-"];

impl Step {
    /// The object, and whether it is there.
    fn object(&self) -> (Value, bool) {
        match self {
            Self::Namespace(enrolled) => (
                namespace("shop", enrolled.unwrap_or_default()),
                enrolled.is_some(),
            ),
            Self::Service(s, there) => {
                let mut service = service(&format!("s{s}"));
                service["spec"]["clusterIP"] = format!("10.96.0.{}", s + 1).into();
                service["spec"]["ports"][0]["name"] = if *s == 0 { "http" } else { "tcp" }.into();
                (service, *there)
            }
            Self::Slice(s, endpoints) => {
                let listed = endpoints.iter().flatten().map(|(pod, ip, state)| {
                    let conditions =
                        json!({"ready": *state == 0, "serving": *state < 2, "terminating": *state == 1});
                    endpoint(PODS[usize::from(*pod)], &format!("10.2.0.{}", ip + 1), conditions)
                });
                let mut object = slice(
                    &format!("slice-{s}"),
                    &format!("s{}", s % 2),
                    &listed.collect::<Vec<_>>(),
                );
                object["ports"][0]["name"] = if s % 2 == 0 { "http" } else { "tcp" }.into();
                (object, endpoints.is_some())
            }
            Self::Template(t, version) => {
                let version = format!("v{}", version.unwrap_or_default());
                let prefix = PREFIXES[usize::from(*t)];
                (template(&format!("t{t}"), prefix, &version), version != "v0")
            }
            Self::Local(pod, ip) => {
                let address = format!("10.2.0.{}", ip.unwrap_or_default() + 1);
                (local_pod(PODS[usize::from(*pod)], &address), ip.is_some())
            }
        }
    }
}

/// Everything in a snapshot but the numbers.
fn meaning(state: &mut State) -> String {
    let snapshot = state.snapshot();
    let workload = |w: &Arc<Workload>| {
        let mut w = Workload::clone(w);
        w.id = 0;
        w
    };
    let all: Vec<_> = snapshot
        .workloads
        .iter()
        .chain(snapshot.remotes.values())
        .map(workload)
        .collect();
    let mut by_ip: Vec<_> = snapshot
        .workloads_by_ip
        .iter()
        .map(|(ip, w)| (*ip, workload(w)))
        .collect();
    by_ip.sort_by_key(|(ip, _)| *ip);
    let services: Vec<_> = snapshot
        .services
        .iter()
        .map(|s| {
            let ports = s.ports.iter().map(|p| {
                let endpoints = p
                    .endpoints
                    .iter()
                    .map(|e| (e.addr, e.workload.as_ref().map(workload)));
                (p.number, endpoints.collect::<Vec<_>>())
            });
            (s.name.clone(), ports.collect::<Vec<_>>())
        })
        .collect();
    let held: Vec<_> = state.held_out().map(|(pod, why)| (pod.clone(), why)).collect();
    let problems: Vec<_> = state.problems().into_iter().map(|p| p.rejected).collect();
    format!("{all:?}\n{by_ip:?}\n{services:?}\n{held:?}\n{problems:?}")
}

proptest! {
    #[test]
    fn any_history_leads_to_what_its_last_objects_mean(steps in prop::collection::vec(step(), 1..40)) {
        let mut state = node(&[]);
        let mut now: BTreeMap<String, Value> = BTreeMap::new();
        let facts = NodeFacts { node: "node-1".into(), ..NodeFacts::default() };
        let mut held = Plan::default();
        for step in &steps {
            let (object, there) = step.object();
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            if there {
                now.insert(name, object.clone());
                put(&mut state, object);
            } else {
                now.remove(&name);
                delete(&mut state, &object);
            }
            let snapshot = state.snapshot();
            let next = plan(&snapshot, &facts, &held);
            let from_nothing = Plan { basis: Basis::default(), ..held.clone() };
            prop_assert_eq!(&plan(&snapshot, &facts, &from_nothing), &next);
            held = next;
            let enrolled = now.get("\"Namespace\" \"shop\"") == Some(&namespace("shop", true));
            for endpoint in snapshot.services.iter().flat_map(|s| &s.ports).flat_map(|p| p.endpoints.iter()) {
                prop_assert!(endpoint.workload.is_some() || !enrolled, "never in plaintext to who may be in the mesh");
            }
        }
        let objects: Vec<Value> = now.into_values().collect();
        let mut fresh = node(&objects);
        prop_assert_eq!(meaning(&mut state), meaning(&mut fresh));
    }
}
