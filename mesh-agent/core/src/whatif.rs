//! What a change of objects would do to requests: each is routed through both worlds by the one matcher.

mod client;
mod fate;

use crate::model::snapshot::Snapshot;
use crate::routing::explain_request;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

pub use fate::Fate;

/// A request, as one line of JSON gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The pod that sends it, `namespace/pod`; it is looked up for what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Address of the client's pod, where no pod is named. If no pod has it, the client is one of `namespace` and `labels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<IpAddr>,
    /// The Istio Gateway that the request comes in by, `namespace/name`: then it comes from outside, and `port` is that of
    /// the gateway's server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Namespace of the client, where no pod is named; `default` if neither is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels of the client, where no pod is named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Method.
    #[serde(default = "get")]
    pub method: String,
    /// The Host header, perhaps with a port; also what is dialled, unless `address` says so.
    pub host: String,
    /// Path and query.
    #[serde(default = "slash")]
    pub path: String,
    /// Header fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The port that is dialled; else that in `host`, else 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The address that is dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

fn get() -> String {
    "GET".into()
}

fn slash() -> String {
    "/".into()
}

impl Request {
    /// Reads one line: a request as above, or an access line of the mesh (`heddle logs`) of the client's side, which has
    /// neither header fields nor query. `None` for other lines of such a log.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn read(line: &str) -> Result<Option<Self>, String> {
        let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if value.get("timestamp").is_none() && value.get("src.addr").is_none() {
            let request = serde_path_to_error::deserialize(value);
            return request.map(Some).map_err(|error| error.to_string());
        }
        let text = |key: &str| value[key].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        let address = |key: &str| text(key)?.parse::<SocketAddr>().ok();
        let (Some(method), Some(path), Some(host)) = (text("method"), text("path"), text("authority")) else {
            return Ok(None);
        };
        if value["direction"] != "outbound" {
            return Ok(None);
        }
        Ok(Some(Self {
            client_address: address("src.addr").map(|a| a.ip()),
            namespace: text("src.namespace"),
            method,
            path,
            host,
            ..Self::default()
        }))
    }
}

/// A request that would be treated otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Its place among the requests, from 0.
    pub index: usize,
    /// It.
    pub request: Request,
    /// What becomes of it now.
    pub before: Fate,
    /// What would become of it.
    pub after: Fate,
    /// How the matcher would come to it.
    pub steps: Vec<String>,
}

/// The requests that two worlds treat differently.
///
/// # Errors
/// A client pod that neither world knows; with the request's place, from 1.
pub fn differences(
    before: &Snapshot,
    after: &Snapshot,
    requests: &[Request],
) -> Result<Vec<Difference>, String> {
    let mut differences = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let client = client::of(before, request)
            .or_else(|| client::of(after, request))
            .ok_or_else(|| {
                let name = request.client.as_deref().unwrap_or_default();
                format!(
                    "request {}: client {name:?}: no such pod (write namespace/pod)",
                    index + 1
                )
            })?;
        let (was, will) = (
            fate::of(before, &client, request),
            fate::of(after, &client, request),
        );
        if was != will {
            let steps = client::with_facts(after, &client, request, |facts| explain_request(after, facts));
            differences.push(Difference {
                index,
                request: request.clone(),
                before: was,
                after: will,
                steps,
            });
        }
    }
    Ok(differences)
}

#[cfg(test)]
mod tests;
