//! What nodes, cluster and users can rely on in the rendered objects.

use crate::helm::{NAMESPACE, chart, container, object, render, strings};
use serde_json::{Value, json};

/// Each of the three was taken away on a running node: without SYS_ADMIN no map can be made, without NET_ADMIN no marked
/// socket, without SYS_PTRACE pods of other users have no network namespace.
#[test]
fn the_agent_has_three_capabilities_and_no_other_privilege() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &[]);
    let agent = object(&objects, "DaemonSet", "heddle-agent");
    let context = &container(agent)["securityContext"];
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(
        context["capabilities"]["add"],
        json!(["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"])
    );
    let pod = &agent["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    // Bidirectional propagation would take `privileged`.
    for mount in container(agent)["volumeMounts"].as_array().unwrap() {
        assert_ne!(mount["mountPropagation"], "Bidirectional", "{mount}");
    }
}

#[test]
fn of_the_node_the_agent_sees_named_directories_only() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &[]);
    let agent = object(&objects, "DaemonSet", "heddle-agent");
    let volumes = agent["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let writable = |name: &Value| {
        let mounts = container(agent)["volumeMounts"].as_array().unwrap();
        mounts
            .iter()
            .any(|mount| mount["name"] == *name && mount["readOnly"] != true)
    };
    let mut paths: Vec<(&str, bool)> = volumes
        .iter()
        .filter_map(|volume| Some((volume["hostPath"]["path"].as_str()?, writable(&volume["name"]))))
        .collect();
    paths.sort_unstable();
    let expected = [
        ("/etc/cni/net.d", true),
        ("/opt/cni/bin", true),
        ("/run/heddle", true),
        ("/sys/fs/bpf", true),
        ("/sys/fs/cgroup", false),
        ("/var/run/netns", false),
    ];
    assert_eq!(paths, expected);
}

#[test]
fn without_the_cni_plugin_the_nodes_cni_directories_are_not_touched() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &["--set", "cni.enabled=false"]);
    let text = object(&objects, "DaemonSet", "heddle-agent").to_string();
    assert!(!text.contains("cni"), "{text}");
}

#[test]
fn a_second_agent_can_be_scheduled_beside_the_first_and_the_first_has_time_to_drain() {
    let Some(helm) = crate::helm::helm() else { return };
    for drain in [0, 30, 3600] {
        let objects = render(&helm, &["--set", &format!("agent.drainSeconds={drain}")]);
        let agent = object(&objects, "DaemonSet", "heddle-agent");
        let rolling = &agent["spec"]["updateStrategy"]["rollingUpdate"];
        assert_eq!(
            (&rolling["maxSurge"], &rolling["maxUnavailable"]),
            (&json!(1), &json!(0))
        );
        assert_eq!(
            container(agent)["ports"],
            Value::Null,
            "a port is a hostPort on the node's network"
        );
        assert!(strings(&container(agent)["args"]).contains(&&*format!("--drain-seconds={drain}")));
        let grace = agent["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_i64();
        assert!(grace.unwrap() > drain, "{grace:?}");
    }
}

#[test]
fn probes_and_scrapes_follow_the_metrics_address() {
    let Some(helm) = crate::helm::helm() else { return };
    let args = [
        "--set",
        "agent.metricsAddr=0.0.0.0:9999",
        "--set",
        "monitoring.podMonitor.enabled=true",
    ];
    let objects = render(&helm, &args);
    let agent = object(&objects, "DaemonSet", "heddle-agent");
    for probe in ["startupProbe", "livenessProbe"] {
        assert_eq!(container(agent)[probe]["httpGet"]["port"], 9999, "{probe}");
    }
    let annotations = &agent["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], "9999");
    assert_eq!(annotations["prometheus.io/scrape"], "true");
    let monitor = object(&objects, "PodMonitor", "heddle-agent").to_string();
    assert!(
        monitor.contains("[$1]:9999") && monitor.contains("\"$1:9999\""),
        "{monitor}"
    );
}

#[test]
fn readiness_is_the_containers_own_and_no_other_agent_on_the_node_can_answer_for_it() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &[]);
    let agent = object(&objects, "DaemonSet", "heddle-agent");
    let probe = strings(&container(agent)["readinessProbe"]["exec"]["command"]);
    let file = probe
        .iter()
        .find_map(|word| word.strip_prefix("--file="))
        .unwrap();
    let wanted = format!("--ready-file={file}");
    assert!(strings(&container(agent)["args"]).contains(&&*wanted), "{wanted}");
    let volumes = agent["spec"]["template"]["spec"]["volumes"].to_string();
    assert!(
        volumes.contains(r#""emptyDir""#) && file.starts_with("/run/heddle-ready/"),
        "{volumes}"
    );
}

#[test]
fn the_token_for_the_ca_has_the_audience_of_istios_protocol() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &[]);
    let agent = object(&objects, "DaemonSet", "heddle-agent");
    let volumes = agent["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let token = volumes
        .iter()
        .find(|volume| volume["name"] == "ca-token")
        .unwrap();
    let source = &token["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(
        (&source["audience"], &source["path"]),
        (&json!("istio-ca"), &json!("istio-token"))
    );
}

#[test]
fn the_controller_runs_as_nobody_twice_and_survives_a_drain() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &[]);
    let controller = object(&objects, "Deployment", "heddle-controller");
    assert_eq!(controller["spec"]["replicas"], 2);
    let pod = &controller["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let context = &container(controller)["securityContext"];
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    for absent in ["hostNetwork", "hostPID", "volumes"] {
        assert_eq!(pod[absent], Value::Null, "{absent}");
    }
    let budget = object(&objects, "PodDisruptionBudget", "heddle-controller");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert_eq!(budget["spec"]["selector"], controller["spec"]["selector"]);
    let alone = render(&helm, &["--set", "controller.replicas=1"]);
    assert!(alone.iter().all(|object| object["kind"] != "PodDisruptionBudget"));
}

#[test]
fn a_users_affinity_does_not_put_the_controllers_onto_one_node() {
    let Some(helm) = crate::helm::helm() else { return };
    let file = chart().join("ci/02-everything.yaml");
    let objects = render(&helm, &["-f", file.to_str().unwrap()]);
    let affinity =
        &object(&objects, "Deployment", "heddle-controller")["spec"]["template"]["spec"]["affinity"];
    assert!(affinity["nodeAffinity"].is_object());
    assert!(affinity["podAntiAffinity"].is_object());
}

#[test]
fn heddles_own_pods_stay_out_of_every_mesh() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &[]);
    for (kind, name) in [("DaemonSet", "heddle-agent"), ("Deployment", "heddle-controller")] {
        let labels = &object(&objects, kind, name)["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["heddle.io/mesh"], "disabled");
        assert_eq!(labels["istio.io/dataplane-mode"], "none");
    }
}

#[test]
fn the_webhook_never_stops_an_apply_and_leaves_its_ca_bundle_to_the_controller() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &[]);
    let validator = object(&objects, "ValidatingWebhookConfiguration", "heddle-validator");
    let hooks = validator["webhooks"].as_array().unwrap();
    assert_eq!(hooks.len(), 1);
    assert_eq!(hooks[0]["failurePolicy"], "Ignore");
    assert_eq!(hooks[0]["timeoutSeconds"], 3);
    // A field that no revision has is not touched by an upgrade or a rollback.
    assert_eq!(hooks[0]["clientConfig"].get("caBundle"), None);
    let excluded =
        json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [NAMESPACE]}]);
    assert_eq!(hooks[0]["namespaceSelector"]["matchExpressions"], excluded);
    let service = object(&objects, "Service", "heddle-controller");
    let ports = service["spec"]["ports"].as_array().unwrap();
    let port = &hooks[0]["clientConfig"]["service"]["port"];
    assert!(
        ports.iter().any(|one| one["port"] == *port),
        "the service has no port {port}"
    );
    let without = render(&helm, &["--set", "webhook.enabled=false"]);
    assert!(
        without
            .iter()
            .all(|object| object["kind"] != "ValidatingWebhookConfiguration")
    );
    let rules = object(&without, "ClusterRole", "heddle-controller").to_string();
    assert!(!rules.contains("validatingwebhookconfigurations"));
}

#[test]
fn the_service_leads_to_ports_that_the_controller_has() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &[]);
    let service = object(&objects, "Service", "heddle-controller");
    let container = container(object(&objects, "Deployment", "heddle-controller"));
    for (port, number) in [(15012, 15012), (443, 15017), (15014, 15014)] {
        let ports = service["spec"]["ports"].as_array().unwrap();
        let target = &ports.iter().find(|one| one["port"] == port).unwrap()["targetPort"];
        let ports = container["ports"].as_array().unwrap();
        let found = ports.iter().find(|one| one["name"] == *target).unwrap();
        assert_eq!(found["containerPort"], number);
        let listens = format!("=[::]:{number}");
        assert!(
            strings(&container["args"])
                .iter()
                .any(|arg| arg.ends_with(&listens)),
            "{listens}"
        );
    }
}

#[test]
fn istios_crds_come_only_when_asked_for_and_stay_at_uninstall() {
    let Some(helm) = crate::helm::helm() else { return };
    let kinds = |objects: &[Value]| -> Vec<Value> {
        objects
            .iter()
            .filter(|object| object["kind"] == "CustomResourceDefinition")
            .cloned()
            .collect()
    };
    assert!(kinds(&render(&helm, &[])).is_empty());
    let crds = kinds(&render(&helm, &["--set", "crds.istio=true"]));
    assert_eq!(crds.len(), 7);
    for crd in crds {
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let names: Vec<_> = versions
            .iter()
            .map(|version| version["name"].as_str().unwrap())
            .collect();
        let old = crd["spec"]["group"] == "networking.istio.io";
        let all = ["v1", "v1beta1", "v1alpha3"];
        assert_eq!(names, if old { &all[..] } else { &all[..2] });
        assert_eq!(
            versions
                .iter()
                .filter(|version| version["storage"] == true)
                .count(),
            1
        );
    }
}

#[test]
fn no_key_and_no_password_is_in_the_chart() {
    let Some(helm) = crate::helm::helm() else { return };
    let file = chart().join("ci/02-everything.yaml");
    for objects in [render(&helm, &[]), render(&helm, &["-f", file.to_str().unwrap()])] {
        assert!(objects.iter().all(|object| object["kind"] != "Secret"));
        let text = Value::from(objects).to_string();
        assert!(!text.contains("PRIVATE KEY") && !text.contains("BEGIN CERTIFICATE"));
    }
}

#[test]
fn another_ca_takes_address_and_roots() {
    let Some(helm) = crate::helm::helm() else { return };
    let file = chart().join("ci/03-istiod-ca.yaml");
    let objects = render(&helm, &["-f", file.to_str().unwrap()]);
    let args = strings(&container(object(&objects, "DaemonSet", "heddle-agent"))["args"]);
    assert!(
        args.contains(&"--ca-address=istiod.istio-system.svc:15012"),
        "{args:?}"
    );
    assert!(
        args.contains(&"--ca-root=/var/run/secrets/heddle-ca-root/root-cert.pem"),
        "{args:?}"
    );
    let own = render(&helm, &[]);
    let args = strings(&container(object(&own, "DaemonSet", "heddle-agent"))["args"]);
    assert!(
        args.contains(&"--ca-address=heddle-controller.heddle-system.svc:15012"),
        "{args:?}"
    );
}

/// S132, S138, § 1.7: the guides' commands look for these names, labels and ports.
#[test]
fn gateways_have_the_names_labels_and_ports_of_the_guides() {
    let Some(helm) = crate::helm::helm() else { return };
    assert!(
        render(&helm, &[])
            .iter()
            .all(|o| o["metadata"]["name"] != "istio-ingressgateway")
    );
    let objects = render(
        &helm,
        &[
            "--set",
            "gateways.ingress.enabled=true,gateways.ingress.type=NodePort",
        ],
    );
    let service = object(&objects, "Service", "istio-ingressgateway");
    assert_eq!(service["spec"]["type"], "NodePort");
    assert_eq!(service["spec"]["selector"]["istio"], "ingressgateway");
    let ports: Vec<_> = service["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            (
                p["name"].as_str().unwrap(),
                p["port"].as_u64().unwrap(),
                p["targetPort"].as_u64().unwrap(),
            )
        })
        .collect();
    let guides = [
        ("status-port", 15021, 15021),
        ("http2", 80, 8080),
        ("https", 443, 8443),
        ("tcp", 31400, 31400),
        ("tls", 15443, 15443),
    ];
    assert_eq!(ports, guides);
    let pod = &object(&objects, "Deployment", "istio-ingressgateway")["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["istio"], "ingressgateway");
    assert_eq!(
        pod["metadata"]["labels"]["heddle.io/mesh"], "disabled",
        "captured, its connections would be proxied twice"
    );
}

#[test]
fn a_gateway_has_no_privilege_and_reads_the_secrets_of_its_own_namespace_only() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(
        &helm,
        &[
            "--set",
            "gateways.ingress.enabled=true,gateways.egress.enabled=true",
        ],
    );
    for name in ["istio-ingressgateway", "istio-egressgateway"] {
        let deployment = object(&objects, "Deployment", name);
        let context = &container(deployment)["securityContext"];
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(context["allowPrivilegeEscalation"], false);
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert!(pod["hostNetwork"].is_null() && pod["hostPID"].is_null());
        let role = object(&objects, "Role", name);
        assert_eq!(role["metadata"]["namespace"], NAMESPACE);
        assert!(role.to_string().contains("secrets"));
        let cluster = object(&objects, "ClusterRole", name).to_string();
        assert!(
            !cluster.contains("secrets") && !cluster.contains("\"pods\""),
            "{cluster}"
        );
        // A kind that it may not list would keep it from ever being ready.
        let agent = object(&objects, "ClusterRole", "heddle-agent");
        for rule in agent["rules"].as_array().unwrap() {
            for resource in strings(&rule["resources"]).into_iter().filter(|r| *r != "pods") {
                assert!(cluster.contains(&format!("\"{resource}\"")), "{name}: {resource}");
            }
        }
        let binding = object(&objects, "ClusterRoleBinding", name);
        assert_eq!(binding["subjects"].as_array().unwrap().len(), 1);
    }
}

/// By a label that all of them have, the chart's and the controller's, and on a socket that outlives no pod.
#[test]
fn every_gateway_is_found_and_asked_by_heddle() {
    let Some(helm) = crate::helm::helm() else { return };
    let objects = render(&helm, &["--set", "gateways.ingress.enabled=true"]);
    let controller = object(&objects, "Deployment", "heddle-controller");
    let mut env = container(controller)["env"].as_array().unwrap().iter();
    let template = env.find(|var| var["name"] == "HEDDLE_GATEWAY_TEMPLATE").unwrap();
    let template: Value = serde_json::from_str(template["value"].as_str().unwrap()).unwrap();
    let charts = &object(&objects, "Deployment", "istio-ingressgateway")["spec"]["template"];
    for pod in [charts, &template["podTemplate"]] {
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/part-of"], "heddle", "{pod}");
        assert_eq!(labels["app.kubernetes.io/component"], "gateway", "{pod}");
        let args = strings(&pod["spec"]["containers"][0]["args"]);
        assert!(args.contains(&"--admin-socket=/run/heddle/admin.sock"), "{pod}");
        let mut volumes = pod["spec"]["volumes"].as_array().unwrap().iter();
        let own = volumes.find(|volume| volume["name"] == "run").unwrap();
        assert_eq!(own["emptyDir"]["medium"], "Memory", "{pod}");
    }
}
