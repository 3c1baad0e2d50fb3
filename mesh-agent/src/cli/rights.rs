//! Whether the accounts of agents and controller may do what they do: the API server is asked for each verb.

use super::fleet::Fleet;
use super::survey::Finding;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use kube::api::PostParams;

/// Questions at once.
const PARALLEL: usize = 8;
const FOLLOW: &[&str] = &["list", "watch"];

/// What an account needs.
struct Right {
    account: &'static str,
    /// In the namespace of the installation only.
    own_namespace: bool,
    group: &'static str,
    /// `services`, or with a subresource `routes/status`.
    resources: &'static [&'static str],
    /// The objects, where not all.
    names: &'static [&'static str],
    verbs: &'static [&'static str],
    /// What fails without.
    purpose: &'static str,
}

const fn right(
    account: &'static str,
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    purpose: &'static str,
) -> Right {
    Right {
        account,
        own_namespace: false,
        group,
        resources,
        names: &[],
        verbs,
        purpose,
    }
}

/// The same in the namespace of the installation, for objects of these names.
const fn own(right: Right, names: &'static [&'static str]) -> Right {
    Right {
        own_namespace: true,
        names,
        ..right
    }
}

/// The same for objects of these names.
const fn named(right: Right, names: &'static [&'static str]) -> Right {
    Right { names, ..right }
}

const AGENT: &str = "heddle-agent";
const CONTROLLER: &str = "heddle-controller";
const ISTIO: &[&str] = &[
    "destinationrules",
    "serviceentries",
    "sidecars",
    "virtualservices",
    "workloadentries",
];
const GATEWAY: &str = "gateway.networking.k8s.io";
const EXPERIMENTAL: &str = "gateway.networking.x-k8s.io";
const NOTHING_KNOWN: &str = "an agent that starts knows nothing";
const NO_EFFECT: &str = "such objects have no effect";
const NOT_TOLD: &str = "of wrong ones nobody is told";
const NOT_JUDGED: &str = "BackendTLSPolicies have no status";
const NO_ROOTS: &str = "agents do not learn the CA's roots";
const NO_LEADER: &str = "no replica leads";

#[rustfmt::skip]
const RIGHTS: &[Right] = &[
    right(AGENT, "", &["namespaces", "pods", "services"], FOLLOW, NOTHING_KNOWN),
    right(AGENT, "", &["nodes"], FOLLOW, "localities are not known: nothing fails over or is spread by zone"),
    right(AGENT, "discovery.k8s.io", &["endpointslices"], FOLLOW, NOTHING_KNOWN),
    right(AGENT, "mesh.heddle.io", &["workloadtemplates"], FOLLOW, "pods of other nodes stay unknown"),
    right(AGENT, "networking.istio.io", ISTIO, FOLLOW, NO_EFFECT),
    right(AGENT, "security.istio.io", &["peerauthentications"], FOLLOW, NO_EFFECT),
    right(AGENT, GATEWAY, &["backendtlspolicies", "grpcroutes", "httproutes", "tcproutes", "tlsroutes"], FOLLOW, NO_EFFECT),
    right(AGENT, EXPERIMENTAL, &["xbackendtrafficpolicies"], FOLLOW, NO_EFFECT),
    right(AGENT, "apiextensions.k8s.io", &["customresourcedefinitions"], FOLLOW, "kinds that are absent are polled"),
    own(right(AGENT, "", &["configmaps"], &["get"], "no certificate can be had"), &["heddle-ca-root-cert"]),
    own(right(AGENT, "apps", &["daemonsets"], &["get"], "an uninstall cannot be told from a restart"), &["heddle-agent"]),
    right(CONTROLLER, "authentication.k8s.io", &["tokenreviews"], &["create"], "no certificate is signed"),
    right(CONTROLLER, "", &["pods"], FOLLOW, "no certificate is signed"),
    right(CONTROLLER, "mesh.heddle.io", &["workloadtemplates"], &["list", "watch", "create", "patch", "delete"],
        "pods of other nodes stay unknown, or are known as they were"),
    right(CONTROLLER, "networking.istio.io", ISTIO, FOLLOW, NOT_TOLD),
    right(CONTROLLER, "networking.istio.io", &["gateways"], FOLLOW, NOT_TOLD),
    right(CONTROLLER, "security.istio.io", &["peerauthentications"], FOLLOW, NOT_TOLD),
    right(CONTROLLER, "", &["namespaces", "services"], FOLLOW, "routes have no status"),
    right(CONTROLLER, GATEWAY,
        &["grpcroutes", "httproutes", "referencegrants", "tcproutes", "tlsroutes", "udproutes"], FOLLOW,
        "routes have no status"),
    right(CONTROLLER, GATEWAY, &["backendtlspolicies"], FOLLOW, NOT_JUDGED),
    right(CONTROLLER, GATEWAY, &["backendtlspolicies/status"], &["patch"], NOT_JUDGED),
    right(CONTROLLER, GATEWAY,
        &["grpcroutes/status", "httproutes/status", "tcproutes/status", "tlsroutes/status", "udproutes/status"],
        &["patch"], "routes have no status"),
    right(CONTROLLER, GATEWAY, &["gatewayclasses", "gateways", "listenersets"], FOLLOW, "Gateways have no status"),
    right(CONTROLLER, GATEWAY, &["gatewayclasses/status", "gateways/status", "listenersets/status"], &["patch"],
        "Gateways have no status"),
    right(CONTROLLER, EXPERIMENTAL, &["xbackendtrafficpolicies"], FOLLOW, "traffic policies have no status"),
    right(CONTROLLER, EXPERIMENTAL, &["xbackendtrafficpolicies/status"], &["patch"], "traffic policies have no status"),
    right(CONTROLLER, "apiextensions.k8s.io", &["customresourcedefinitions"], FOLLOW, "kinds that are absent are polled"),
    right(CONTROLLER, "events.k8s.io", &["events"], &["create", "patch"], NOT_TOLD),
    own(right(CONTROLLER, "", &["secrets"], FOLLOW, "the CA has no key"), &["cacerts", "heddle-ca"]),
    own(right(CONTROLLER, "", &["secrets"], &["create"], "the CA cannot keep a key"), &[]),
    own(right(CONTROLLER, "", &["configmaps"], &["list", "watch", "patch"], NO_ROOTS), &["heddle-ca-root-cert"]),
    own(right(CONTROLLER, "", &["configmaps"], &["create"], NO_ROOTS), &[]),
    own(right(CONTROLLER, "coordination.k8s.io", &["leases"], &["get", "update"], NO_LEADER), &["heddle-controller"]),
    own(right(CONTROLLER, "coordination.k8s.io", &["leases"], &["create"], NO_LEADER), &[]),
];

const WHOLE: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];
const NOT_DEPLOYED: &str = "no Gateway is deployed";
const NO_RIGHTS: &str = "Gateways' pods may read nothing";
const NO_SECRETS: &str = "Gateways have no certificates, and nobody has the CAs of BackendTLSPolicies";
const RBAC: &str = "rbac.authorization.k8s.io";
const SECRETS_ROLE: &[&str] = &["heddle-gateway-secrets"];
/// Bound in namespaces.
const BOUND: &[&str] = &["heddle-gateway-configmaps", "heddle-gateway-secrets"];

/// Only where Gateways of Gateway API are deployed.
#[rustfmt::skip]
const GATEWAYS: &[Right] = &[
    right(CONTROLLER, GATEWAY, &["gatewayclasses"], &["create"], "there is no GatewayClass"),
    right(CONTROLLER, "", &["serviceaccounts"], WHOLE, NOT_DEPLOYED),
    right(CONTROLLER, "", &["services"], &["get", "create", "patch", "delete"], NOT_DEPLOYED),
    right(CONTROLLER, "apps", &["deployments"], WHOLE, NOT_DEPLOYED),
    named(right(CONTROLLER, RBAC, &["clusterrolebindings"], &["get", "list", "watch", "patch"], NO_RIGHTS), &["heddle-gateway"]),
    named(right(CONTROLLER, RBAC, &["clusterroles"], &["bind"], NO_RIGHTS),
        &["heddle-gateway", "heddle-gateway-configmaps", "heddle-gateway-secrets"]),
    right(CONTROLLER, RBAC, &["rolebindings"], &["list", "watch", "create"], NO_SECRETS),
    named(right(CONTROLLER, RBAC, &["rolebindings"], &["get", "patch", "delete"], NO_SECRETS), BOUND),
    named(right(CONTROLLER, RBAC, &["clusterroles"], &["get"], NOT_DEPLOYED), SECRETS_ROLE),
];

/// Only where the webhook is wanted.
const WEBHOOK: Right = Right {
    names: &["heddle-validator"],
    ..right(
        CONTROLLER,
        "admissionregistration.k8s.io",
        &["validatingwebhookconfigurations"],
        &["get", "patch"],
        "rules are not validated when they are applied",
    )
};

/// A line for each verb that is missing, or one that says that none is.
///
/// # Errors
/// The API server does not answer, or the user may not ask for others.
pub(super) async fn missing(fleet: &Fleet, namespace: &str) -> Result<Vec<Finding>, kube::Error> {
    let client = fleet.client();
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let webhook = webhooks.get_opt("heddle-validator").await?.map(|_| &WEBHOOK);
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let deploys = bindings.get_opt("heddle-gateway").await?.is_some();
    let gateways = if deploys { GATEWAYS } else { &[] };
    let reviews: Api<SubjectAccessReview> = Api::all(client);
    let questions: Vec<_> = RIGHTS
        .iter()
        .chain(gateways)
        .chain(webhook)
        .flat_map(|right| questions(right, namespace))
        .collect();
    let answers: Vec<_> = stream::iter(questions)
        .map(|(right, review)| {
            let reviews = reviews.clone();
            async move {
                let answer = reviews.create(&PostParams::default(), &review).await?;
                let allowed = answer.status.is_some_and(|status| status.allowed);
                Ok::<_, kube::Error>((!allowed).then(|| finding(right, &review)))
            }
        })
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    let missing: Vec<_> = answers.into_iter().flatten().collect();
    if missing.is_empty() {
        let name = "rights of the accounts heddle-agent and heddle-controller";
        return Ok(vec![Finding::new(name, true, None)]);
    }
    Ok(missing)
}

fn questions<'a>(right: &'a Right, namespace: &str) -> Vec<(&'a Right, SubjectAccessReview)> {
    let names: Vec<Option<&str>> = match right.names {
        [] => vec![None],
        names => names.iter().copied().map(Some).collect(),
    };
    let mut all = Vec::new();
    for resource in right.resources {
        for verb in right.verbs {
            for name in &names {
                all.push((right, question(right, namespace, resource, verb, *name)));
            }
        }
    }
    all
}

fn question(
    right: &Right,
    namespace: &str,
    resource: &str,
    verb: &str,
    name: Option<&str>,
) -> SubjectAccessReview {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, part)) => (resource, Some(part.to_owned())),
        None => (resource, None),
    };
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{}", right.account)),
            resource_attributes: Some(ResourceAttributes {
                namespace: right.own_namespace.then(|| namespace.to_owned()),
                group: Some(right.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                verb: Some(verb.to_owned()),
                name: name.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

fn finding(right: &Right, review: &SubjectAccessReview) -> Finding {
    let asked = review.spec.resource_attributes.clone().unwrap_or_default();
    let mut what = format!(
        "{} {}",
        asked.verb.unwrap_or_default(),
        asked.resource.unwrap_or_default()
    );
    if let Some(part) = asked.subresource {
        what = format!("{what}/{part}");
    }
    if !right.group.is_empty() {
        what = format!("{what}.{}", right.group);
    }
    if let Some(name) = asked.name {
        what = format!("{what} {name}");
    }
    if let Some(namespace) = asked.namespace {
        what = format!("{what} in namespace {namespace}");
    }
    Finding::new(
        format!("account {}: {what}", right.account),
        true,
        Some(format!("is not allowed (RBAC): {}", right.purpose)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn line(account: &str, own: bool, group: &str, resource: &str, names: &[&str], verb: &str) -> String {
        format!("{account} own={own} {group}/{resource} {names:?} {verb}")
    }

    #[test]
    fn what_is_asked_for_is_what_the_charts_roles_give() {
        let golden: Value =
            serde_json::from_str(include_str!("../../../tests/tests/chart/rbac.golden.json")).unwrap();
        let strings = |value: &'static Value| -> Vec<&'static str> {
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect()
        };
        let golden: &'static Value = Box::leak(Box::new(golden));
        let mut given = BTreeSet::new();
        for (role, rules) in golden.as_object().unwrap() {
            let (kind, account) = role.split_once(' ').unwrap();
            if account.starts_with("heddle-gateway") {
                continue;
            }
            for rule in rules.as_array().unwrap() {
                for resource in strings(&rule["resources"]) {
                    for verb in strings(&rule["verbs"]) {
                        let names = strings(&rule["resourceNames"]);
                        let group = strings(&rule["apiGroups"])[0];
                        given.insert(line(account, kind == "Role", group, resource, &names, verb));
                    }
                }
            }
        }
        let mut asked = BTreeSet::new();
        for right in RIGHTS.iter().chain(GATEWAYS).chain([&WEBHOOK]) {
            for resource in right.resources {
                for verb in right.verbs {
                    let (account, own) = (right.account, right.own_namespace);
                    asked.insert(line(account, own, right.group, resource, right.names, verb));
                }
            }
        }
        assert_eq!(asked, given);
    }
}
