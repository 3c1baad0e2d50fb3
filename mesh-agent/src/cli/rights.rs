//! Whether the accounts of agents and controller may do what they do: the API server is asked for each verb.

use super::fleet::Fleet;
use super::survey::Finding;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
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
    resource: &'static str,
    /// The objects, where not all.
    names: &'static [&'static str],
    verbs: &'static [&'static str],
    /// What fails without.
    purpose: &'static str,
}

const fn agent(group: &'static str, resource: &'static str, purpose: &'static str) -> Right {
    Right {
        account: "heddle-agent",
        own_namespace: false,
        group,
        resource,
        names: &[],
        verbs: FOLLOW,
        purpose,
    }
}

const fn controller(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    purpose: &'static str,
) -> Right {
    Right {
        account: "heddle-controller",
        verbs,
        ..agent(group, resource, purpose)
    }
}

/// The same in the namespace of the installation, for objects of these names.
const fn own(right: Right, names: &'static [&'static str], verbs: &'static [&'static str]) -> Right {
    Right {
        own_namespace: true,
        names,
        verbs,
        ..right
    }
}

const RIGHTS: &[Right] = &[
    agent("", "namespaces", "agents that start know nothing"),
    agent("", "pods", "agents that start know no pod of their node"),
    agent("", "services", "agents that start know nothing"),
    agent(
        "discovery.k8s.io",
        "endpointslices",
        "agents that start know nothing",
    ),
    agent(
        "mesh.heddle.io",
        "workloadtemplates",
        "pods of other nodes stay unknown",
    ),
    agent(
        "networking.istio.io",
        "destinationrules",
        "DestinationRules have no effect",
    ),
    agent(
        "networking.istio.io",
        "virtualservices",
        "VirtualServices have no effect",
    ),
    agent(
        "security.istio.io",
        "peerauthentications",
        "PeerAuthentications have no effect",
    ),
    agent(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "kinds that are absent are polled",
    ),
    own(
        agent("", "configmaps", "no certificate can be had"),
        &["heddle-ca-root-cert"],
        &["get"],
    ),
    own(
        agent("apps", "daemonsets", "an uninstall cannot be told from a restart"),
        &["heddle-agent"],
        &["get"],
    ),
    controller(
        "authentication.k8s.io",
        "tokenreviews",
        &["create"],
        "no certificate is signed",
    ),
    controller("", "pods", FOLLOW, "no certificate is signed"),
    controller(
        "mesh.heddle.io",
        "workloadtemplates",
        &["list", "watch", "create", "patch", "delete"],
        "pods of other nodes stay unknown, or are known as they were",
    ),
    controller(
        "networking.istio.io",
        "destinationrules",
        FOLLOW,
        "wrong ones are not told of",
    ),
    controller(
        "networking.istio.io",
        "virtualservices",
        FOLLOW,
        "wrong ones are not told of",
    ),
    controller(
        "security.istio.io",
        "peerauthentications",
        FOLLOW,
        "wrong ones are not told of",
    ),
    controller(
        "events.k8s.io",
        "events",
        &["create", "patch"],
        "wrong objects are not told of",
    ),
    own(
        controller("", "secrets", FOLLOW, "the CA has no key"),
        &["cacerts", "heddle-ca"],
        FOLLOW,
    ),
    own(
        controller("", "secrets", FOLLOW, "the CA cannot keep a key"),
        &[],
        &["create"],
    ),
    own(
        controller("", "configmaps", FOLLOW, "agents do not learn the CA's roots"),
        &["heddle-ca-root-cert"],
        &["list", "watch", "patch"],
    ),
    own(
        controller("", "configmaps", FOLLOW, "agents do not learn the CA's roots"),
        &[],
        &["create"],
    ),
    own(
        controller("coordination.k8s.io", "leases", FOLLOW, "no replica leads"),
        &["heddle-controller"],
        &["get", "update"],
    ),
    own(
        controller("coordination.k8s.io", "leases", FOLLOW, "no replica leads"),
        &[],
        &["create"],
    ),
];

/// Only where the webhook is wanted.
const WEBHOOK: Right = Right {
    names: &["heddle-validator"],
    ..controller(
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
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
    let reviews: Api<SubjectAccessReview> = Api::all(client);
    let questions: Vec<_> = RIGHTS
        .iter()
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
    let names: Vec<Option<String>> = match right.names {
        [] => vec![None],
        names => names.iter().map(|name| Some((*name).to_owned())).collect(),
    };
    let ask = |verb: &str, name: Option<String>| SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{}", right.account)),
            resource_attributes: Some(ResourceAttributes {
                namespace: right.own_namespace.then(|| namespace.to_owned()),
                group: Some(right.group.to_owned()),
                resource: Some(right.resource.to_owned()),
                verb: Some(verb.to_owned()),
                name,
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let verbs = right.verbs.iter();
    verbs
        .flat_map(|verb| names.iter().map(|name| (right, ask(verb, name.clone()))))
        .collect()
}

fn finding(right: &Right, review: &SubjectAccessReview) -> Finding {
    let asked = review.spec.resource_attributes.clone().unwrap_or_default();
    let what = match right.group {
        "" => right.resource.to_owned(),
        group => format!("{}.{group}", right.resource),
    };
    let name = asked.name.map(|name| format!(" {name}")).unwrap_or_default();
    let place = asked
        .namespace
        .map(|namespace| format!(" in namespace {namespace}"));
    let verb = asked.verb.unwrap_or_default();
    Finding::new(
        format!(
            "account {}: {verb} {what}{name}{}",
            right.account,
            place.unwrap_or_default()
        ),
        true,
        Some(format!("is not allowed (RBAC): {}", right.purpose)),
    )
}
