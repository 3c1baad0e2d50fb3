//! The codes. Numbers and names are Istio's (`pkg/config/analysis/msg/messages.yaml`); those of `HED…` have no counterpart.

use serde::Serialize;

/// How bad a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Probably not what was meant.
    Warning,
    /// Does not work.
    Error,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `IST0101`.
    pub id: &'static str,
    /// `ReferencedResourceNotFound`.
    pub name: &'static str,
    /// How bad.
    pub level: Level,
}

const fn code(id: &'static str, name: &'static str, level: Level) -> Code {
    Code { id, name, level }
}

pub(super) static REFERENCE_NOT_FOUND: Code = code("IST0101", "ReferencedResourceNotFound", Level::Error);
pub(super) static NAMESPACE_NOT_ENROLLED: Code = code("IST0102", "NamespaceNotInjected", Level::Info);
pub(super) static SCHEMA: Code = code("IST0106", "SchemaValidationError", Level::Error);
pub(super) static UNKNOWN_ANNOTATION: Code = code("IST0108", "UnknownAnnotation", Level::Warning);
pub(super) static CONFLICTING_HOSTS: Code = code(
    "IST0109",
    "ConflictingMeshGatewayVirtualServiceHosts",
    Level::Error,
);
pub(super) static MANY_SIDECARS: Code = code(
    "IST0111",
    "MultipleSidecarsWithoutWorkloadSelectors",
    Level::Error,
);
pub(super) static PORT_NOT_SAID: Code = code(
    "IST0112",
    "VirtualServiceDestinationPortSelectorRequired",
    Level::Info,
);
pub(super) static MANY_SERVICES: Code = code(
    "IST0116",
    "DeploymentAssociatedToMultipleServices",
    Level::Warning,
);
pub(super) static PORT_NAME: Code = code("IST0118", "PortNameIsNotUnderNamingConvention", Level::Info);
pub(super) static MANY_LABELS: Code = code("IST0123", "NamespaceMultipleInjectionLabels", Level::Warning);
pub(super) static NO_WORKLOADS: Code = code("IST0127", "NoMatchingWorkloadsFound", Level::Warning);
pub(super) static UNREACHABLE_RULE: Code = code("IST0130", "VirtualServiceUnreachableRule", Level::Warning);
pub(super) static INEFFECTIVE_MATCH: Code = code("IST0131", "VirtualServiceIneffectiveMatch", Level::Info);
pub(super) static HOST_NOT_IN_GATEWAY: Code =
    code("IST0132", "VirtualServiceHostNotFoundInGateway", Level::Warning);
pub(super) static SCHEMA_WARNING: Code = code("IST0133", "SchemaWarning", Level::Warning);
pub(super) static ADDRESSES_REQUIRED: Code = code("IST0134", "ServiceEntryAddressesRequired", Level::Warning);
pub(super) static CONFLICTING_PORTS: Code = code("IST0137", "DeploymentConflictingPorts", Level::Warning);
pub(super) static CONFLICTING_GATEWAYS: Code = code("IST0145", "ConflictingGateways", Level::Error);
pub(super) static EXTERNAL_NAME_PORT: Code = code(
    "IST0150",
    "ExternalNameServiceTypeInvalidPortName",
    Level::Warning,
);
pub(super) static MANY_TELEMETRIES: Code = code(
    "IST0160",
    "MultipleTelemetriesWithoutWorkloadSelectors",
    Level::Error,
);
pub(super) static PORT_NOT_ON_SERVICE: Code =
    code("IST0162", "GatewayPortNotDefinedOnService", Level::Warning);
pub(super) static SUBSET_WITHOUT_PODS: Code =
    code("IST0173", "DestinationRuleSubsetNotSelectPods", Level::Error);
pub(super) static UNKNOWN_RULE_HOST: Code = code("IST0174", "UnknownDestinationRuleHost", Level::Warning);
pub(super) static CONFLICTING_ENTRIES: Code =
    code("IST0177", "ConflictingServiceEntryProtocol", Level::Warning);
/// What the agents' state says between objects and Istio has no code for.
pub(super) static BETWEEN_OBJECTS: Code = code("HED0001", "ConflictingObjects", Level::Warning);
/// Two objects of one name.
pub(super) static TWICE: Code = code("HED0002", "ObjectDefinedTwice", Level::Error);
