//! What the CNI specification says of a plug-in's call: environment, input, errors, versions.

use crate::cni::PodRef;
use crate::cni::conflist::Orphaned;
use crate::cni::json::{member, skip_space};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Versions that let plug-ins be chained.
const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What an error is written in when the caller's version cannot be known.
const FALLBACK_VERSION: &str = "1.0.0";
const DEFAULT_SOCKET: &str = "/run/heddle/cni.sock";
const DEFAULT_TIMEOUT_SECONDS: u64 = 10;

/// Error codes: below 100 the specification's, from there on ours.
pub(super) mod code {
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODING: u32 = 6;
    pub(crate) const INVALID_CONF: u32 = 7;
    pub(crate) const TRY_AGAIN_LATER: u32 = 11;
    pub(crate) const CAPTURE_FAILED: u32 = 100;
}

/// An error as the runtime reads it from standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CniError {
    pub(super) code: u32,
    pub(super) msg: String,
}

impl CniError {
    pub(super) fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
        }
    }

    pub(super) fn to_json(&self, version: &str) -> String {
        json!({"cniVersion": version, "code": self.code, "msg": self.msg}).to_string()
    }
}

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// The environment of a call that concerns one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invocation {
    pub(super) container_id: String,
    pub(super) netns: Option<PathBuf>,
    /// Absent where the caller is no Kubernetes runtime.
    pub(super) pod: Option<PodRef>,
}

impl Invocation {
    pub(super) fn command(variable: &impl Fn(&str) -> Option<String>) -> Result<Command, CniError> {
        let name = variable("CNI_COMMAND").unwrap_or_default();
        match name.as_str() {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "STATUS" => Ok(Command::Status),
            "GC" => Ok(Command::Gc),
            "VERSION" => Ok(Command::Version),
            _ => Err(CniError::new(
                code::INVALID_ENVIRONMENT,
                format!("CNI_COMMAND is {name:?}: expected ADD, DEL, CHECK, STATUS, GC or VERSION"),
            )),
        }
    }

    pub(super) fn parse(variable: &impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let container_id = set("CNI_CONTAINERID")
            .ok_or_else(|| CniError::new(code::INVALID_ENVIRONMENT, "CNI_CONTAINERID is not set"))?;
        Ok(Self {
            container_id,
            netns: set("CNI_NETNS").map(PathBuf::from),
            pod: pod(&variable("CNI_ARGS").unwrap_or_default()),
        })
    }
}

/// The pod in `CNI_ARGS` (`KEY=VALUE;…`).
fn pod(args: &str) -> Option<PodRef> {
    let value = |wanted: &str| {
        args.split(';')
            .filter_map(|arg| arg.split_once('='))
            .find(|(key, value)| *key == wanted && !value.is_empty())
            .map(|(_, value)| value.into())
    };
    Some(PodRef {
        namespace: value("K8S_POD_NAMESPACE")?,
        name: value("K8S_POD_NAME")?,
        uid: value("K8S_POD_UID"),
    })
}

/// The plug-in's configuration, as the runtime hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NetConf<'a> {
    pub(super) socket: PathBuf,
    pub(super) timeout: Duration,
    pub(super) fail_open: bool,
    exclude_namespaces: Vec<String>,
    pub(super) orphaned: Option<Orphaned>,
    /// As written: it is handed on unchanged.
    pub(super) prev_result: Option<&'a str>,
    pub(super) ips: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawConf {
    cni_version: Option<String>,
    socket: Option<PathBuf>,
    timeout_seconds: Option<u64>,
    #[serde(default)]
    fail_open: bool,
    #[serde(default)]
    exclude_namespaces: Vec<String>,
    orphaned: Option<Orphaned>,
    prev_result: Option<Value>,
}

impl<'a> NetConf<'a> {
    pub(super) fn parse(input: &'a str) -> Result<Self, CniError> {
        let raw: RawConf = serde_json::from_str(input).map_err(|error| {
            CniError::new(
                code::DECODING,
                format!("the network configuration cannot be read: {error}"),
            )
        })?;
        let version = raw.cni_version.as_deref().unwrap_or("0.1.0");
        if !SUPPORTED.contains(&version) {
            return Err(CniError::new(
                code::INCOMPATIBLE_VERSION,
                format!(
                    "field cniVersion: {version} is not supported, expected one of {}",
                    SUPPORTED.join(", ")
                ),
            ));
        }
        let prev_result = raw.prev_result.as_ref().filter(|result| result.is_object());
        Ok(Self {
            socket: raw.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            timeout: Duration::from_secs(raw.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS)),
            fail_open: raw.fail_open,
            exclude_namespaces: raw.exclude_namespaces,
            orphaned: raw.orphaned,
            ips: prev_result.map(addresses).unwrap_or_default(),
            prev_result: prev_result.and_then(|_| {
                let range = member(input, skip_space(input, 0), "prevResult")?;
                input.get(range)
            }),
        })
    }

    /// Pods of these namespaces start without the agent: it needs some of them itself.
    pub(super) fn excludes(&self, pod: &PodRef) -> bool {
        self.exclude_namespaces
            .iter()
            .any(|namespace| **namespace == *pod.namespace)
    }
}

/// `ips[].address` of a result, without the prefix length.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result.get("ips").and_then(Value::as_array);
    ips.into_iter()
        .flatten()
        .filter_map(|ip| ip.get("address")?.as_str()?.split('/').next()?.parse().ok())
        .collect()
}

/// The version that an answer to `input` is written in.
pub(super) fn version_of(input: &str) -> &str {
    let wanted = member(input, skip_space(input, 0), "cniVersion").and_then(|range| input.get(range));
    let wanted = wanted.map(|text| text.trim_matches('"'));
    let known = |wanted: &str| SUPPORTED.into_iter().find(|version| *version == wanted);
    wanted.and_then(known).unwrap_or(FALLBACK_VERSION)
}

/// The answer to `VERSION`.
pub(super) fn versions(input: &str) -> String {
    json!({"cniVersion": version_of(input), "supportedVersions": SUPPORTED}).to_string()
}
