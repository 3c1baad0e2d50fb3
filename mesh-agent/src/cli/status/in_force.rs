//! `status --in-force`: which generation of each rule is in force, on every agent and gateway, proved against what the API
//! server has. Each answers with a line for each kind; only one that differs is asked for its objects.

use super::super::Output;
use super::super::ask::{Agent, Place, block_on};
use super::super::fleet::{Fleet, Member, Role};
use crate::source::kube::rules_read;
use anyhow::Context;
use http::Method;
use kube::api::{DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::discovery::{Discovery, verbs};
use kube::{Api, Client};
use mesh_core::state::{ObjectKey, Proof, kind_of, proofs};
use mesh_core::translate::describe;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Objects in one answer of the API server.
const PAGE: u32 = 500;
/// How often everybody is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// The rules of a cluster and their generations.
type Live = BTreeMap<ObjectKey, i64>;

/// An object of which another generation is in force than the cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lag {
    object: String,
    /// In the cluster; none if it is not there any more.
    generation: Option<i64>,
    /// Of the one in force; none if none is.
    in_force: Option<i64>,
    /// Why, if that is known.
    reason: Option<String>,
}

/// What one agent or gateway proves.
struct Finding {
    member: Member,
    objects: usize,
    outcome: anyhow::Result<Vec<Lag>>,
}

impl Finding {
    fn proved(&self) -> bool {
        self.outcome.as_ref().is_ok_and(Vec::is_empty)
    }
}

/// Shows what is in force here, or proves it for a cluster. `wait`: how long the cluster's may still lag.
pub(super) fn run(agent: &Agent, objects: bool, wait: Duration, output: Output) -> anyhow::Result<ExitCode> {
    block_on(async {
        let fleet = match agent.place().await? {
            Place::Here => {
                let page = if objects { "/in-force/objects" } else { "/in-force" };
                let answer = agent.ask(Method::GET, page, None).await?;
                match output {
                    Output::Json => println!("{answer}"),
                    Output::Text => print_here(&answer),
                }
                return Ok(ExitCode::SUCCESS);
            }
            Place::Cluster(fleet) => fleet,
        };
        let deadline = Instant::now() + wait;
        loop {
            let findings = look(&fleet).await?;
            let proved = findings.iter().all(Finding::proved);
            if proved || Instant::now() >= deadline {
                match output {
                    Output::Json => println!("{}", as_json(&findings)),
                    Output::Text => findings.iter().for_each(print),
                }
                return Ok(if proved {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                });
            }
            tokio::time::sleep(AGAIN).await;
        }
    })
}

async fn look(fleet: &Fleet) -> anyhow::Result<Vec<Finding>> {
    let live = live(&fleet.client()).await?;
    let mut members = fleet.agents().await?;
    members.extend(fleet.gateways().await?);
    let words = |more: &[&str]| -> Vec<String> {
        let all = ["status", "--in-force"].iter().chain(more);
        all.map(|word| (*word).to_owned()).collect()
    };
    let mut findings = Vec::new();
    for (member, answer) in fleet.ask_all(&members, &words(&[])).await {
        let own = of_role(&live, member.role);
        let outcome = match answer {
            Ok(answer) if proves(&own, member.role, &answer) => Ok(Vec::new()),
            Ok(_) => fleet
                .ask(&member, &words(&["--objects"]))
                .await
                .map(|answer| lags(&own, member.role, &answer)),
            Err(error) => Err(error),
        };
        findings.push(Finding {
            member,
            objects: own.len(),
            outcome,
        });
    }
    Ok(findings)
}

fn kinds_of(role: Role) -> BTreeSet<(&'static str, &'static str)> {
    rules_read(role == Role::Gateway).collect()
}

/// The rules that an agent or a gateway reads.
fn of_role(live: &Live, role: Role) -> Live {
    let kinds = kinds_of(role);
    let own = live.iter();
    own.filter(|(key, _)| kinds.contains(&(key.group.as_str(), key.kind.as_str())))
        .map(|(key, generation)| (key.clone(), *generation))
        .collect()
}

/// Whether an answer says of every kind what the cluster has, and that the node is as its snapshot wants it.
fn proves(own: &Live, role: Role, answer: &Value) -> bool {
    let wanted = proofs(own.iter().map(|(key, generation)| (key, Some(*generation))));
    let said = |kind: &str, proof: &Proof| {
        let said = &answer["in_force"][kind];
        let none = proof.objects == 0 && said.is_null();
        none || (said["objects"] == proof.objects && said["digest"] == proof.digest())
    };
    settled(answer)
        && kinds_of(role).into_iter().all(|(group, kind)| {
            let kind = kind_of(&key(group, kind, "", ""));
            said(&kind, &wanted.get(&kind).copied().unwrap_or_default())
        })
}

fn settled(answer: &Value) -> bool {
    ["agent", "gateway"]
        .iter()
        .any(|who| answer[*who]["settled"] == true)
}

/// The objects by which an answer differs from what the cluster has.
fn lags(own: &Live, role: Role, answer: &Value) -> Vec<Lag> {
    let kinds: BTreeMap<String, (&str, &str)> = kinds_of(role)
        .into_iter()
        .map(|(group, kind)| (kind_of(&key(group, kind, "", "")), (group, kind)))
        .collect();
    let rows = answer["objects"].as_array().into_iter().flatten();
    let said: BTreeMap<ObjectKey, Option<i64>> = rows
        .filter_map(|row| {
            let (group, kind) = kinds.get(row["kind"].as_str()?)?;
            let key = key(group, kind, row["namespace"].as_str()?, row["name"].as_str()?);
            Some((key, row["generation"].as_i64()))
        })
        .collect();
    let problems: BTreeMap<&str, String> = { answer["problems"].as_array().into_iter().flatten() }
        .filter_map(|problem| {
            let field = problem["field"].as_str().unwrap_or_default();
            let reason = format!("{field}: {}", problem["reason"].as_str().unwrap_or_default());
            Some((problem["object"].as_str()?, reason))
        })
        .collect();
    let keys: BTreeSet<&ObjectKey> = own.keys().chain(said.keys()).collect();
    let mut lags: Vec<Lag> = keys
        .into_iter()
        .filter(|key| own.get(*key).copied() != said.get(*key).map(|g| g.unwrap_or(0)))
        .map(|key| Lag {
            object: describe(key),
            generation: own.get(key).copied(),
            in_force: said.get(key).copied().flatten(),
            reason: problems.get(describe(key).as_str()).cloned(),
        })
        .collect();
    if !settled(answer) {
        lags.push(Lag {
            object: "the node itself".into(),
            generation: None,
            in_force: None,
            reason: Some("not everything is as its snapshot wants it yet".into()),
        });
    }
    lags
}

fn key(group: &str, kind: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        kind: kind.to_owned(),
        group: group.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// Every rule of the cluster that somebody reads, by metadata alone.
async fn live(client: &Client) -> anyhow::Result<Live> {
    let kinds: BTreeSet<_> = kinds_of(Role::Agent)
        .into_iter()
        .chain(kinds_of(Role::Gateway))
        .collect();
    let groups: BTreeSet<&str> = kinds.iter().map(|(group, _)| *group).collect();
    let discovery = Discovery::new(client.clone())
        .filter(&groups.into_iter().collect::<Vec<_>>())
        .run()
        .await
        .context("ask the API server for its kinds")?;
    let mut live = Live::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let wanted = kinds.contains(&(resource.group.as_str(), resource.kind.as_str()));
            if wanted && capabilities.supports_operation(verbs::LIST) {
                list(client, &resource, &mut live).await?;
            }
        }
    }
    Ok(live)
}

async fn list(client: &Client, resource: &ApiResource, into: &mut Live) -> anyhow::Result<()> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list_metadata(&params).await;
        let page = page.with_context(|| format!("list {}", resource.plural))?;
        for item in page.items {
            let namespace = item.metadata.namespace.unwrap_or_default();
            let name = item.metadata.name.unwrap_or_default();
            let generation = item.metadata.generation.unwrap_or(0);
            into.insert(
                key(&resource.group, &resource.kind, &namespace, &name),
                generation,
            );
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

fn as_json(findings: &[Finding]) -> Value {
    let row = |finding: &Finding| {
        let lags = finding.outcome.as_ref().map_or_else(
            |_| Value::Null,
            |lags| {
                let lag = |lag: &Lag| {
                    json!({"object": lag.object, "generation": lag.generation,
                        "in_force": lag.in_force, "reason": lag.reason})
                };
                lags.iter().map(lag).collect()
            },
        );
        json!({"name": finding.member.name(), "proved": finding.proved(), "objects": finding.objects,
            "lags": lags, "error": finding.outcome.as_ref().err().map(|error| format!("{error:#}"))})
    };
    json!({
        "proved": findings.iter().all(Finding::proved),
        "members": findings.iter().map(row).collect::<Vec<_>>(),
    })
}

fn print(finding: &Finding) {
    let name = finding.member.name();
    match &finding.outcome {
        Ok(lags) if lags.is_empty() => println!("{name}: all {} rules in force", finding.objects),
        Ok(lags) => {
            println!("{name}: NOT IN FORCE, of {} rules:", finding.objects);
            for lag in lags {
                let number = |of: Option<i64>| of.map_or_else(|| "none".to_owned(), |g| g.to_string());
                let reason = lag.reason.as_deref().unwrap_or("not there yet");
                println!(
                    "  {}: generation {} in the cluster, {} in force: {reason}",
                    lag.object,
                    number(lag.generation),
                    number(lag.in_force)
                );
            }
        }
        Err(error) => println!("{name}: NO ANSWER: {error:#}"),
    }
}

fn print_here(answer: &Value) {
    println!("{:<60} {:>8}  DIGEST OF GENERATIONS", "KIND", "RULES");
    for (kind, proof) in answer["in_force"].as_object().into_iter().flatten() {
        println!(
            "{kind:<60} {:>8}  {}",
            proof["objects"],
            super::text(&proof["digest"])
        );
    }
    for row in super::rows(&answer["objects"]) {
        println!(
            "{} {}/{}: generation {}",
            super::text(&row["kind"]),
            super::text(&row["namespace"]),
            super::text(&row["name"]),
            row["generation"]
        );
    }
}

#[cfg(test)]
mod tests;
