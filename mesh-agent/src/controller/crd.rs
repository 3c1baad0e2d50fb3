//! The CustomResourceDefinitions that the chart installs, as `heddle crds` prints them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceValidation, JSONSchemaProps,
    JSONSchemaPropsOrBool,
};
use kube::api::ObjectMeta;
use mesh_core::model::template::{GROUP, VERSION, WORKLOAD_TEMPLATE};
use std::collections::BTreeMap;

/// `workloadtemplates.mesh.heddle.io`.
#[must_use]
pub fn workload_templates() -> CustomResourceDefinition {
    let names = CustomResourceDefinitionNames {
        kind: WORKLOAD_TEMPLATE.to_owned(),
        list_kind: Some(format!("{WORKLOAD_TEMPLATE}List")),
        plural: "workloadtemplates".to_owned(),
        singular: Some("workloadtemplate".to_owned()),
        short_names: Some(vec!["wlt".to_owned()]),
        ..CustomResourceDefinitionNames::default()
    };
    let version = CustomResourceDefinitionVersion {
        name: VERSION.to_owned(),
        served: true,
        storage: true,
        schema: Some(CustomResourceValidation {
            open_api_v3_schema: Some(object(
                "What the controller tells every agent of the pods that one template makes. Written by Heddle; do not edit.",
                [("spec", spec())],
                &["spec"],
            )),
        }),
        additional_printer_columns: Some(vec![
            column("Owner", ".spec.owner.name"),
            column("Service account", ".spec.serviceAccountName"),
        ]),
        ..CustomResourceDefinitionVersion::default()
    };
    CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(format!("{}.{GROUP}", names.plural)),
            ..ObjectMeta::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: GROUP.to_owned(),
            names,
            scope: "Namespaced".to_owned(),
            versions: vec![version],
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    }
}

/// Every definition as one YAML text.
///
/// # Errors
/// The library cannot write it.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&workload_templates())
}

fn spec() -> JSONSchemaProps {
    let owner = object(
        "What made the pods; a Deployment rather than its ReplicaSet.",
        [("kind", text("Kind in lower case.")), ("name", text("Name."))],
        &["kind", "name"],
    );
    let labels = JSONSchemaProps {
        type_: Some("object".to_owned()),
        description: Some("metadata.labels of the pods, less the volatile ones.".to_owned()),
        additional_properties: Some(JSONSchemaPropsOrBool::Schema(Box::new(JSONSchemaProps {
            type_: Some("string".to_owned()),
            ..JSONSchemaProps::default()
        }))),
        ..JSONSchemaProps::default()
    };
    let host_network = JSONSchemaProps {
        type_: Some("boolean".to_owned()),
        description: Some("spec.hostNetwork of the pods.".to_owned()),
        ..JSONSchemaProps::default()
    };
    let either = ["podPrefix", "podName"].map(|field| JSONSchemaProps {
        required: Some(vec![field.to_owned()]),
        ..JSONSchemaProps::default()
    });
    let mut spec = object(
        "The pods, by prefix or by name, and what they have in common.",
        [
            ("podPrefix", text("metadata.generateName of the pods.")),
            ("podName", text("metadata.name of one pod.")),
            ("serviceAccountName", text("spec.serviceAccountName of the pods.")),
            ("labels", labels),
            ("owner", owner),
            ("hostNetwork", host_network),
            ("runtimeClassName", text("spec.runtimeClassName of the pods.")),
        ],
        &["serviceAccountName"],
    );
    spec.one_of = Some(either.into());
    spec
}

fn object<const N: usize>(
    description: &str,
    properties: [(&str, JSONSchemaProps); N],
    required: &[&str],
) -> JSONSchemaProps {
    let properties: BTreeMap<_, _> = properties.map(|(name, schema)| (name.to_owned(), schema)).into();
    JSONSchemaProps {
        type_: Some("object".to_owned()),
        description: Some(description.to_owned()),
        properties: Some(properties),
        required: Some(required.iter().map(|name| (*name).to_owned()).collect()),
        ..JSONSchemaProps::default()
    }
}

fn text(description: &str) -> JSONSchemaProps {
    JSONSchemaProps {
        type_: Some("string".to_owned()),
        description: Some(description.to_owned()),
        ..JSONSchemaProps::default()
    }
}

fn column(name: &str, path: &str) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        json_path: path.to_owned(),
        type_: "string".to_owned(),
        ..CustomResourceColumnDefinition::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::model::template::{TemplateOwner, WorkloadTemplate};

    #[test]
    fn the_schema_has_exactly_the_fields_that_are_written() {
        let full = WorkloadTemplate {
            pod_prefix: Some("a-".into()),
            pod_name: Some("a".into()),
            service_account_name: "a".into(),
            labels: [("a".into(), "b".into())].into(),
            owner: Some(TemplateOwner::default()),
            host_network: true,
            runtime_class_name: Some("kata".into()),
        };
        let written = serde_json::to_value(&full).unwrap();
        let written: Vec<_> = written.as_object().unwrap().keys().cloned().collect();
        let mut schema: Vec<_> = spec().properties.unwrap().into_keys().collect();
        schema.sort();
        let mut sorted = written;
        sorted.sort();
        assert_eq!(schema, sorted);
    }

    #[test]
    fn the_file_in_the_chart_is_what_this_program_prints() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../charts/heddle/crds/workloadtemplates.yaml"
        );
        let file = std::fs::read_to_string(path).unwrap();
        assert_eq!(file, yaml().unwrap(), "run `cargo xtask generate`");
    }
}
