//! What a cluster has and lacks for the mesh, and who in it is in the mesh: `heddle check` and `heddle verify-install`
//! where there is a cluster to ask.

use super::fleet::{Fleet, Member};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::ListParams;
use mesh_core::model::template;
use serde_json::{Value, json};

/// Oldest kernel that takes the programs (`bpf_set_retval`).
const KERNEL: (u32, u32) = (5, 18);
/// Oldest API server whose tokens name their node, which the CA asks for.
const SERVER: (u32, u32) = (1, 32);

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) name: String,
    /// What is wrong, if anything is.
    pub(super) wrong: Option<String>,
    /// Whether Heddle cannot do its work without.
    pub(super) required: bool,
}

impl Finding {
    pub(super) fn new(name: impl Into<String>, required: bool, wrong: Option<String>) -> Self {
        Self {
            name: name.into(),
            wrong,
            required,
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({"feature": self.name, "present": self.wrong.is_none(), "required": self.required, "reason": self.wrong})
    }
}

/// What a cluster must have before Heddle is installed.
pub(super) async fn before(fleet: &Fleet) -> anyhow::Result<Vec<Finding>> {
    let client = fleet.client();
    let version = client.apiserver_version().await?;
    let mut findings = vec![Finding::new(
        format!("API server {}", version.git_version),
        true,
        too_old(&format!("{}.{}", version.major, version.minor), SERVER)
            .map(|why| format!("{why}: the CA asks for tokens that name their node")),
    )];
    let nodes: Api<Node> = Api::all(client.clone());
    for node in nodes.list(&ListParams::default()).await?.items {
        let name = node.metadata.name.unwrap_or_default();
        let Some(info) = node.status.and_then(|status| status.node_info) else {
            continue;
        };
        let wrong = if info.operating_system == "linux" {
            too_old(&info.kernel_version, KERNEL)
        } else {
            Some(format!(
                "runs {}: its pods stay outside of the mesh",
                info.operating_system
            ))
        };
        let system = format!(
            "node {name}: kernel {}, {}, {}",
            info.kernel_version, info.container_runtime_version, info.architecture
        );
        findings.push(Finding::new(system, true, wrong));
    }
    let crds: Api<CustomResourceDefinition> = Api::all(client);
    for (name, what) in [
        ("virtualservices.networking.istio.io", "VirtualServices"),
        ("destinationrules.networking.istio.io", "DestinationRules"),
        ("peerauthentications.security.istio.io", "PeerAuthentications"),
    ] {
        let wrong = match crds.get_opt(name).await? {
            None => Some(format!(
                "the cluster does not know {what}: install Istio's CRDs, or this chart with crds.istio=true"
            )),
            Some(crd) => unreadable(&crd, &["v1", "v1beta1", "v1alpha3"])
                .map(|why| format!("{why}: {what} have no effect")),
        };
        findings.push(Finding::new(format!("CRD {name}"), false, wrong));
    }
    Ok(findings)
}

/// Whether what the chart installs is there and serves.
pub(super) async fn installed(fleet: &Fleet, namespace: &str) -> anyhow::Result<Vec<Finding>> {
    let client = fleet.client();
    let mut findings = Vec::new();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = "workloadtemplates.mesh.heddle.io";
    let wrong = match crds.get_opt(crd).await? {
        None => Some("is not there".to_owned()),
        Some(crd) => unreadable(&crd, &[template::VERSION]),
    };
    findings.push(Finding::new(format!("CRD {crd}"), true, wrong));
    let controllers: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let wrong = match controllers.get_opt("heddle-controller").await? {
        None => Some("is not there".to_owned()),
        Some(found) => {
            let ready = found.status.and_then(|status| status.ready_replicas).unwrap_or(0);
            (ready == 0).then(|| "no replica is ready: no new certificate can be had".to_owned())
        }
    };
    findings.push(Finding::new("Deployment heddle-controller", true, wrong));
    let agents: Api<DaemonSet> = Api::namespaced(client, namespace);
    let wrong = match agents.get_opt("heddle-agent").await? {
        None => Some("is not there".to_owned()),
        Some(found) => {
            let status = found.status.unwrap_or_default();
            (status.number_ready < status.desired_number_scheduled).then(|| {
                format!(
                    "{} of {} agents are ready",
                    status.number_ready, status.desired_number_scheduled
                )
            })
        }
    };
    findings.push(Finding::new("DaemonSet heddle-agent", true, wrong));
    Ok(findings)
}

/// Why nothing can be read of a kind whose definition is there.
fn unreadable(crd: &CustomResourceDefinition, known: &[&str]) -> Option<String> {
    let served = crd.spec.versions.iter().filter(|version| version.served);
    let served: Vec<&str> = served.map(|version| version.name.as_str()).collect();
    let readable = served.iter().any(|version| known.contains(version));
    let (served, known) = (served.join(", "), known.join(", "));
    (!readable).then(|| format!("spec.versions: {served} is served, and of {known} none"))
}

/// What every agent says of its node and of its config.
pub(super) fn agents(answers: &[(Member, anyhow::Result<Value>)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    for (agent, answer) in answers {
        let name = format!("agent on node {}", agent.node);
        let status = match answer {
            Ok(status) => status,
            Err(error) => {
                findings.push(Finding::new(name, true, Some(format!("{error:#}"))));
                continue;
            }
        };
        let here: Vec<&Value> = rows(&status["pods"])
            .iter()
            .filter(|pod| pod["node"] == agent.node)
            .collect();
        let captured = here.iter().filter(|pod| pod["captured"] == true).count();
        let wrong =
            (status["agent"]["settled"] != true).then(|| "its data path is not as wanted yet".to_owned());
        findings.push(Finding::new(
            format!("{name}: {captured} pods captured"),
            true,
            wrong,
        ));
        // Its pods start all the same, and are captured a moment later.
        if let Some(reason) = status["cni"].as_str().filter(|cni| cni.starts_with("Failed")) {
            let what = format!("{name}: CNI plug-in");
            findings.push(Finding::new(what, false, Some(reason.to_owned())));
        }
        findings.extend(rows(&status["refused_by_api_server"]).iter().map(|refused| {
            let what = format!("{name}: reading of kind {}", text(&refused["kind"]));
            Finding::new(what, true, Some(text(&refused["reason"]).to_owned()))
        }));
        for pod in here
            .iter()
            .filter(|pod| pod["captured"] != true && pod["enrolled"] == true)
        {
            let why = pod["why"].as_str().unwrap_or_default().to_owned();
            findings.push(Finding::new(
                format!("pod {}", text(&pod["pod"])),
                true,
                Some(why),
            ));
        }
        problems.extend(rows(&status["problems"]).iter().map(|problem| {
            format!(
                "{}: {}: {}",
                text(&problem["object"]),
                text(&problem["field"]),
                text(&problem["reason"])
            )
        }));
    }
    problems.sort();
    problems.dedup();
    findings.extend(
        problems
            .into_iter()
            .map(|problem| Finding::new("config", false, Some(problem))),
    );
    findings
}

/// What is not in the mesh on an agent's node, and why, one line each.
pub(super) fn outside(agent: &Member, status: &Value) -> Vec<String> {
    let here = rows(&status["pods"])
        .iter()
        .filter(|pod| pod["node"] == agent.node);
    here.filter(|pod| pod["captured"] != true)
        .map(|pod| format!("{} ({}): {}", text(&pod["pod"]), agent.node, text(&pod["why"])))
        .collect()
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Says that a version, of which only the leading two numbers count, is older than wanted.
fn too_old(version: &str, wanted: (u32, u32)) -> Option<String> {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (found < wanted).then(|| format!("older than {}.{}", wanted.0, wanted.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_are_compared_by_their_first_two_numbers() {
        assert_eq!(too_old("6.1.0-18-cloud-amd64", KERNEL), None);
        assert_eq!(too_old("5.18.1", KERNEL), None);
        assert_eq!(
            too_old("5.4.0-1103-aws", KERNEL),
            Some("older than 5.18".to_owned())
        );
        assert_eq!(too_old("1.34+", SERVER), None);
        assert!(too_old("garbage", SERVER).is_some());
    }

    #[test]
    fn an_enrolled_pod_that_is_not_captured_is_a_finding_and_one_that_never_asked_is_not() {
        let agent = Member {
            role: super::super::fleet::Role::Agent,
            namespace: "heddle-system".to_owned(),
            node: "n1".into(),
            pod: "heddle-agent-x".into(),
        };
        let pod = |name: &str, enrolled, captured| json!({"pod": name, "node": "n1", "enrolled": enrolled, "captured": captured, "why": "because"});
        let status = json!({"agent": {"settled": true}, "problems": [],
            "pods": [pod("a/in", true, true), pod("a/stuck", true, false), pod("a/out", false, false)]});
        let outsiders = outside(&agent, &status);
        let findings = agents(&[(agent, Ok(status))]);
        let wrong: Vec<_> = findings
            .iter()
            .filter(|f| f.wrong.is_some())
            .map(|f| f.name.as_str())
            .collect();
        assert_eq!(wrong, ["pod a/stuck"]);
        assert_eq!(findings[0].name, "agent on node n1: 1 pods captured");
        assert_eq!(outsiders, ["a/stuck (n1): because", "a/out (n1): because"]);
    }
}
