use super::*;
use proptest::prelude::*;

fn entry() -> Entry {
    Entry::new(
        "/run/heddle/cni.sock".to_owned(),
        10,
        false,
        vec!["kube-system".to_owned()],
    )
}

fn plugin_types(text: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(text).unwrap();
    let plugins = list["plugins"].as_array().unwrap();
    plugins
        .iter()
        .map(|plugin| plugin["type"].as_str().unwrap().to_owned())
        .collect()
}

const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"#;

#[test]
fn the_active_file_is_the_first_that_the_runtime_loads() {
    let names = [
        "99-loopback.conf",
        "10-calico.conflist",
        "00-readme.txt",
        "05-cilium.conflist.cilium_bak",
        "calico-kubeconfig",
    ];
    assert_eq!(active(names), Some("10-calico.conflist"));
    assert_eq!(active(["10-a.conflist", "10-a.conf"]), Some("10-a.conf"));
    assert_eq!(active(["readme"]), None);
}

#[test]
fn the_entry_comes_last_and_the_rest_is_untouched() {
    let with = insert(FLANNEL, &entry()).unwrap().unwrap();
    assert_eq!(plugin_types(&with), ["flannel", "portmap", PLUGIN_TYPE]);
    let start = with.find(",\n    {\"type\":\"heddle-cni\"").unwrap();
    assert!(FLANNEL.starts_with(&with[..start]));
    assert!(FLANNEL.ends_with("\n  ]\n}\n") && with.ends_with("}\n  ]\n}\n"));
}

#[test]
fn a_second_insertion_changes_nothing() {
    let with = insert(FLANNEL, &entry()).unwrap().unwrap();
    assert_eq!(insert(&with, &entry()).unwrap(), None);
}

#[test]
fn new_settings_replace_the_entry_where_it_is() {
    let old = insert(FLANNEL, &entry()).unwrap().unwrap();
    let behind = old.replace("true\n      }\n    },\n    {\"type\"", "true}},{\"type\"");
    let chained = behind.replace("\n  ]\n}\n", ",{\"type\":\"other-mesh\"}]}");
    let new = insert(
        &chained,
        &Entry::new("/run/other.sock".to_owned(), 5, true, Vec::new()),
    );
    let new = new.unwrap().unwrap();
    assert_eq!(
        plugin_types(&new),
        ["flannel", "portmap", PLUGIN_TYPE, "other-mesh"]
    );
    assert!(new.contains("/run/other.sock") && !new.contains("/run/heddle"));
}

#[test]
fn an_entry_is_removed_wherever_others_moved_it() {
    for list in [
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[ {"type":"heddle-cni"}, {"type":"a"},{"type":"b"}]}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[ {"type":"a"}, {"type":"heddle-cni"},{"type":"b"}]}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[ {"type":"a"},{"type":"b"}, {"type":"heddle-cni"}]}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[ {"type":"heddle-cni"},{"type":"heddle-cni"},{"type":"a"},{"type":"b"}]}"#,
    ] {
        assert_eq!(
            plugin_types(&remove(list).unwrap().unwrap()),
            ["a", "b"],
            "{list}"
        );
        let one = insert(list, &entry()).unwrap().unwrap_or_else(|| list.to_owned());
        assert_eq!(plugin_types(&one).len(), 3, "{one}");
    }
    assert_eq!(remove(FLANNEL).unwrap(), None);
}

#[test]
fn a_single_configuration_is_wrapped_as_it_was_written() {
    let single = "{ \"cniVersion\": \"0.3.1\",\n \"name\": \"k8s-pod-network\", \"type\": \"bridge\" }\n";
    let list = wrap(single, &entry()).unwrap();
    assert_eq!(plugin_types(&list), ["bridge", PLUGIN_TYPE]);
    assert!(list.contains(single.trim()));
    assert!(wraps(&list, single));
    assert!(wraps(&remove(&list).unwrap().unwrap(), single));
    assert!(!wraps(&list, &single.replace("bridge", "ptp")));
    let value: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(value["name"], "k8s-pod-network");
    assert_eq!(value["cniVersion"], "0.3.1");
}

#[test]
fn what_cannot_take_a_plugin_is_refused_with_the_field() {
    let refused = |text: &str| insert(text, &entry()).unwrap_err().to_string();
    assert!(refused("plugins: []").starts_with("is not JSON: "));
    assert!(refused("{\"plugins\":[{}]").contains("line 1 column"));
    assert_eq!(refused("[]"), "is no JSON object");
    let no_plugins = "field plugins: expected a list of at least one plug-in";
    assert_eq!(refused(r#"{"cniVersion":"1.0.0"}"#), no_plugins);
    assert_eq!(refused(r#"{"cniVersion":"1.0.0","plugins":[]}"#), no_plugins);
    assert_eq!(refused(r#"{"cniVersion":"1.0.0","plugins":["a"]}"#), no_plugins);
    assert!(refused(r#"{"cniVersion":"0.2.0","plugins":[{"type":"a"}]}"#).contains("cniVersion: 0.2.0"));
    let single = wrap(r#"{"cniVersion":"1.0.0"}"#, &entry()).unwrap_err();
    assert_eq!(single, ConflistError::NoType);
    let only_ours = r#"{"cniVersion":"1.0.0","plugins":[{"type":"heddle-cni"}]}"#;
    assert_eq!(remove(only_ours).unwrap_err(), ConflistError::NoPlugins);
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z\\[\\]{},:\"\\\\ é\n]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z\\[\\]\"]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn space() -> impl Strategy<Value = String> {
    "[ \n\t\r]{0,4}"
}

/// A conflist as somebody may have written it, with foreign fields before and after its plug-ins.
fn conflist() -> impl Strategy<Value = String> {
    let plugin = (json(), space(), space())
        .prop_map(|(value, before, after)| format!("{before}{{\"type\":\"p\",\"args\":{value}}}{after}"));
    let plugins = proptest::collection::vec(plugin, 1..4);
    (json(), json(), plugins, space(), any::<bool>()).prop_map(|(head, tail, plugins, space, pretty)| {
        let text = format!(
            "{space}{{\"x\":{head},\"cniVersion\":\"1.0.0\",{space}\"plugins\"{space}:{space}[{}],\"y\":{tail}}}{space}",
            plugins.join(",")
        );
        if pretty {
            let value: Value = serde_json::from_str(&text).unwrap();
            serde_json::to_string_pretty(&value).unwrap()
        } else {
            text
        }
    })
}

proptest! {
    #[test]
    fn taking_the_entry_out_gives_the_file_back_byte_for_byte(text in conflist()) {
        let with = insert(&text, &entry()).unwrap().unwrap();
        prop_assert!(plugin_types(&with).last().is_some_and(|last| last == PLUGIN_TYPE));
        prop_assert_eq!(insert(&with, &entry()).unwrap(), None);
        prop_assert_eq!(remove(&with).unwrap(), Some(text));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\]{},:\"\\\\a-z0-9 ]{0,60}") {
        let _ = insert(&text, &entry());
        let _ = remove(&text);
        let _ = wrap(&text, &entry());
    }
}
