//! What Kubernetes objects come to.

use super::{one, read};
use crate::model::service::Protocol;
use crate::model::workload::FailMode;
use crate::translate::{Membership, NamespaceSpec, Translated};
use serde_json::json;
use std::sync::Arc;

#[test]
fn the_protocol_of_a_port_comes_from_app_protocol_then_name_then_number() {
    for (port, protocol) in [
        ("{port: 80}", Protocol::Auto),
        ("{port: 80, name: http}", Protocol::Http),
        ("{port: 80, name: HTTP-web}", Protocol::Http),
        ("{port: 80, name: httpweb}", Protocol::Auto),
        ("{port: 80, name: http2-x}", Protocol::Http2),
        ("{port: 80, name: grpc-web-x}", Protocol::Grpc),
        ("{port: 80, name: grpc}", Protocol::Grpc),
        ("{port: 80, name: tcp-x, appProtocol: http}", Protocol::Http),
        ("{port: 80, name: http, appProtocol: custom}", Protocol::Http),
        ("{port: 80, appProtocol: kubernetes.io/h2c}", Protocol::Http2),
        ("{port: 443, name: https}", Protocol::Tls),
        ("{port: 443, name: tls-x}", Protocol::Tls),
        ("{port: 6379, name: redis}", Protocol::Tcp),
        ("{port: 3306}", Protocol::Tcp),
        ("{port: 3306, name: http}", Protocol::Http),
    ] {
        let yaml = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\nspec: {{ports: [{port}]}}");
        let Ok(Translated::Service(spec)) = one(&yaml) else {
            panic!("{port}")
        };
        assert_eq!(spec.ports[0].protocol, protocol, "{port}");
    }
}

#[test]
fn a_deployments_name_is_found_under_its_replica_set_even_with_dots() {
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: svcb-v0.2-7d9-x1\n  labels: {pod-template-hash: 7d9}\n  ownerReferences: [{kind: ReplicaSet, name: svcb-v0.2-7d9, controller: true}]";
    let Ok(Translated::Pod(pod)) = one(yaml) else {
        panic!()
    };
    assert_eq!(pod.owner, Some(("deployment".into(), "svcb-v0.2".into())));
}

#[test]
fn readiness_is_the_condition_and_a_pod_without_conditions_is_ready() {
    for (status, ready) in [
        ("{}", true),
        ("{conditions: [{type: Ready, status: 'True'}]}", true),
        ("{conditions: [{type: Ready, status: 'False'}]}", false),
        ("{conditions: [{type: Initialized, status: 'True'}]}", false),
        ("{phase: Succeeded}", false),
    ] {
        let yaml = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nstatus: {status}");
        let Ok(Translated::Pod(pod)) = one(&yaml) else {
            panic!("{status}")
        };
        assert_eq!(pod.ready, ready, "{status}");
    }
}

#[test]
fn a_namespace_says_membership_fail_mode_and_depth() {
    let yaml = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, labels: {istio.io/dataplane-mode: ambient}, annotations: {heddle.io/fail-mode: open, heddle.io/l7: disabled}}";
    let expected = NamespaceSpec {
        membership: Some(Membership::In),
        fail_mode: FailMode::Open,
        l4_only: true,
        labels: Arc::new([("istio.io/dataplane-mode".into(), "ambient".into())].into()),
    };
    assert_eq!(one(yaml), Ok(Translated::Namespace(expected)));
    let error = one(&yaml.replace("open", "opne")).unwrap_err();
    assert_eq!(error.field, "metadata.labels.heddle.io/fail-mode");
}

#[test]
fn companions_of_the_mesh_are_not_its_business() {
    for (version, kind) in [
        ("apps/v1", "Deployment"),
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
        ("batch/v1", "CronJob"),
        ("v1", "ServiceAccount"),
        ("networking.k8s.io/v1", "Ingress"),
    ] {
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}});
        assert_eq!(read(&object), Ok(Translated::Nothing), "{kind}");
    }
}
