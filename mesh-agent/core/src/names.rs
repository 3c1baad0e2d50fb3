//! What a pod's question for a name is answered, and whether it is the mesh's to answer at all.
//!
//! Only hosts of ServiceEntries that have an address are: given by the user (`addresses`), or the mesh's choice
//! (`state::vips`). Everything else, names of Kubernetes services included, is for the pod's own name server, whose answers
//! nobody rewrites. No name is denied here: a search list's misses are that server's `NXDOMAIN`.

use crate::model::service::Service;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;
use std::net::IpAddr;
use std::sync::Arc;

/// How long a client may keep an answer, seconds (Istio's DNS proxy: 30).
pub const TTL_SECONDS: u32 = 30;

/// The host that a name stands for to a client, if the mesh answers for it. `name` is as it was asked for, in any case, with
/// or without the dot at its end.
#[must_use]
pub fn known<'a>(snapshot: &'a Snapshot, client: &Workload, name: &str) -> Option<&'a Arc<Service>> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let service = snapshot.service_by_host(&name, Some(&client.pod.namespace))?;
    let answers = service.external.is_some()
        && !service.vips.is_empty()
        && snapshot.sees(Some(client), service)
        && !(service.host.starts_with('*') && is_kubernetes(&name, &snapshot.settings.cluster_domain));
    answers.then_some(service)
}

/// Every host that is answered to some pod, in the order of namespaces and hosts.
pub fn answered(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Service>> {
    let hosts = snapshot.settings.capture_names.then_some(&snapshot.services);
    let hosts = hosts.into_iter().flatten();
    hosts.filter(|s| s.external.is_some() && !s.vips.is_empty())
}

/// The addresses of a host of one family, for a client: none where the client has no address of that family itself.
pub fn addresses<'a>(
    service: &'a Service,
    client: &'a Workload,
    v4: bool,
) -> impl Iterator<Item = IpAddr> + 'a {
    let reachable = client.ips.iter().any(|ip| ip.is_ipv4() == v4);
    let of_family = service.vips.iter().filter(move |ip| ip.is_ipv4() == v4);
    of_family.copied().filter(move |_| reachable)
}

/// Names of services and of pods of headless services come and go with them: a wildcard must not stand in for them.
fn is_kubernetes(name: &str, cluster_domain: &str) -> bool {
    ["svc", "pod"].iter().any(|kind| {
        name.strip_suffix(cluster_domain)
            .and_then(|rest| rest.strip_suffix('.'))
            .and_then(|rest| rest.strip_suffix(kind))
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests;
