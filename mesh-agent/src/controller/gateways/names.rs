//! What the objects are called. Pure.

use mesh_core::model::ObjectName;
use serde_json::{Map, Value, json};

/// Label of everything that a Gateway is made of (GEP-1762).
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Label of what the controller made.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub(super) const MANAGER: &str = "heddle-controller";
/// The GatewayClass.
pub(super) const CLASS: &str = "heddle";
/// ClusterRole of what gateways watch, and the binding of their accounts to it.
pub(super) const ROLE: &str = "heddle-gateway";
/// ClusterRole of reading Secrets, and the bindings to it.
pub(super) const SECRETS_ROLE: &str = "heddle-gateway-secrets";
/// ClusterRole of reading ConfigMaps, and the bindings to it.
pub(super) const CONFIG_MAPS_ROLE: &str = "heddle-gateway-configmaps";
/// Accounts of the installation that carry connections themselves, beside those of Gateways: agents, and the gateways that the
/// chart can install.
pub(super) const CARRIERS: [&str; 3] = ["heddle-agent", "istio-egressgateway", "istio-ingressgateway"];
/// Longest DNS label and value of a label.
const LONGEST: usize = 63;
const SUFFIX: &str = "-heddle";

/// `<gateway>-heddle`; where that is no name of a Service, one that is as distinct.
pub(super) fn object_name(gateway: &ObjectName) -> String {
    let name = &*gateway.name;
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts && !name.contains('.') && name.len() + SUFFIX.len() <= LONGEST {
        return format!("{name}{SUFFIX}");
    }
    let front = if starts { "" } else { "g-" };
    let mut short = format!("{front}{}", name.replace('.', "-"));
    short.truncate(LONGEST - SUFFIX.len() - 9);
    format!("{short}-{}{SUFFIX}", digest(name))
}

/// The label by which pods of a Gateway are found.
pub(super) fn labelled(gateway: &ObjectName) -> Map<String, Value> {
    let name = &*gateway.name;
    let value = match name.len() <= LONGEST {
        true => name.to_owned(),
        false => format!("{}-{}", &name[..LONGEST - 9], digest(name)),
    };
    Map::from_iter([(GATEWAY_NAME.to_owned(), value.into())])
}

/// Labels of what the controller made for no Gateway alone.
pub(super) fn labels_of_all() -> Value {
    json!({MANAGED_BY: MANAGER, "app.kubernetes.io/part-of": "heddle"})
}

/// What goes with the ClusterRole of Secrets, whose UID this is, goes with the chart.
pub(super) fn owned_by_chart(uid: &str) -> Value {
    json!([{
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "name": SECRETS_ROLE, "uid": uid,
    }])
}

/// Eight digits of FNV-1a: they stay the same from release to release, as the names do.
fn digest(name: &str) -> String {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    format!("{:08x}", name.bytes().fold(0x811c_9dc5, step))
}
