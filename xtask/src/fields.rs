//! `cargo xtask generate --fields`: the CRDs of Istio and of the Gateway API → one line for each field that they know.
//!
//! What stands there is what the coverage test of mesh-core asks the translators for, field by field.

use crate::{go, shell};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the lists go.
const FOLDER: &str = "mesh-agent/core/fields";

/// A Go module that holds CRDs.
struct Source {
    module: &'static str,
    /// The version to ask for.
    version: &'static str,
    /// File of the list.
    list: &'static str,
    /// Files or folders below the module, with their channel.
    crds: &'static [(&'static str, Channel)],
    /// API groups that are wanted.
    groups: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Channel {
    Standard,
    Experimental,
}

const ISTIO: Source = Source {
    module: "istio.io/api",
    version: "latest",
    list: "istio.txt",
    crds: &[("kubernetes/customresourcedefinitions.gen.yaml", Channel::Standard)],
    groups: &[
        "networking.istio.io",
        "security.istio.io",
        "telemetry.istio.io",
        "extensions.istio.io",
    ],
};

const GATEWAY_API: Source = Source {
    module: "sigs.k8s.io/gateway-api",
    // 1.7 wants a newer Go than the cluster's modules do.
    version: "v1.6",
    list: "gateway-api.txt",
    crds: &[
        (STANDARD, Channel::Standard),
        ("config/crd/experimental", Channel::Experimental),
    ],
    groups: &["gateway.networking.k8s.io", "gateway.networking.x-k8s.io"],
};

const STANDARD: &str = "config/crd/standard";

/// Fields of one kind: path → type, and whether only the experimental channel has it.
#[derive(Default)]
struct Kind {
    versions: BTreeSet<String>,
    fields: BTreeMap<String, (String, bool)>,
    experimental: bool,
}

/// Writes the lists.
pub(crate) fn run() -> Result<()> {
    for source in [ISTIO, GATEWAY_API] {
        let (version, dir) = download(&source)?;
        let mut kinds = BTreeMap::new();
        for (path, channel) in source.crds {
            for file in files(&dir.join(path))? {
                let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
                read(&text, *channel, source.groups, &mut kinds)
                    .with_context(|| format!("read {}", file.display()))?;
            }
        }
        ensure!(
            !kinds.is_empty(),
            "{} has no CRD of {:?}",
            source.module,
            source.groups
        );
        let path = shell::root().join(FOLDER).join(source.list);
        fs::create_dir_all(shell::root().join(FOLDER)).with_context(|| format!("create {FOLDER}"))?;
        fs::write(&path, print(&source, &version, &kinds)?)
            .with_context(|| format!("write {}", path.display()))?;
        eprintln!(
            "✔ {FOLDER}/{} ({} {version}, {} kinds)",
            source.list,
            source.module,
            kinds.len()
        );
    }
    Ok(())
}

/// The Gateway API's CRD of HTTPRoute, as a file.
pub(crate) fn http_route_crd() -> Result<PathBuf> {
    let (_, dir) = download(&GATEWAY_API)?;
    let file = dir
        .join(STANDARD)
        .join("gateway.networking.k8s.io_httproutes.yaml");
    ensure!(file.is_file(), "{} has no {}", GATEWAY_API.module, file.display());
    Ok(file)
}

fn download(source: &Source) -> Result<(String, PathBuf)> {
    let query = format!("{}@{}", source.module, source.version);
    let mut command = shell::command("go");
    go::find()?.add_to(&mut command);
    command
        .args(["mod", "download", "-json", &query])
        .current_dir(std::env::temp_dir());
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let answer: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} says no JSON"))?;
    match (answer["Version"].as_str(), answer["Dir"].as_str()) {
        (Some(version), Some(dir)) => Ok((version.to_owned(), dir.into())),
        _ => bail!("{command:?}: {}", answer["Error"]),
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|ext| ext == "yaml") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Adds the kinds of a file.
fn read(
    text: &str,
    channel: Channel,
    groups: &[&str],
    kinds: &mut BTreeMap<(String, String), Kind>,
) -> Result<()> {
    // An API's whole schema is more than a config file is allowed to be.
    let options = serde_saphyr::options! { budget: None };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)?;
    for crd in documents
        .iter()
        .filter(|d| d["kind"] == "CustomResourceDefinition")
    {
        let text = |pointer: &str| crd.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let group = text("/spec/group").to_owned();
        if !groups.contains(&group.as_str()) {
            continue;
        }
        let name = (group, text("/spec/names/kind").to_owned());
        let experimental = channel == Channel::Experimental;
        let kind = kinds.entry(name).or_insert_with(|| Kind {
            experimental,
            ..Kind::default()
        });
        let versions = crd["spec"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
        for version in versions.iter().filter(|v| v["served"] != false) {
            kind.versions
                .insert(version["name"].as_str().unwrap_or_default().to_owned());
            let schema = &version["schema"]["openAPIV3Schema"];
            for (field, schema) in properties(schema) {
                if !matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
                    walk(field.clone(), schema, experimental, &mut kind.fields);
                }
            }
        }
    }
    Ok(())
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flat_map(Map::iter)
}

/// Adds what can be written at `path`: `[]` stands for an item of a list, `*` for a key of a map.
fn walk(path: String, schema: &Value, experimental: bool, fields: &mut BTreeMap<String, (String, bool)>) {
    let kind = schema["type"].as_str().unwrap_or_default();
    if kind == "array" {
        return walk(format!("{path}[]"), &schema["items"], experimental, fields);
    }
    if schema["additionalProperties"].is_object() {
        return walk(
            format!("{path}.*"),
            &schema["additionalProperties"],
            experimental,
            fields,
        );
    }
    let mut leaf = true;
    for (field, schema) in properties(schema) {
        leaf = false;
        walk(format!("{path}.{field}"), schema, experimental, fields);
    }
    if leaf {
        let what = leaf_type(kind, schema);
        fields.entry(path).or_insert((what, experimental));
    }
}

fn leaf_type(kind: &str, schema: &Value) -> String {
    if schema["x-kubernetes-int-or-string"] == true {
        // Istio's own schemas say so of durations and wrapped numbers too.
        return match schema["format"].as_str() {
            Some(format) => format!("int-or-string:{format}"),
            None => "int-or-string".into(),
        };
    }
    match schema["enum"].as_array() {
        Some(values) => {
            let numbers = kind == "integer";
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let values: Vec<String> = values.iter().map(text).filter(|v| !v.is_empty()).collect();
            format!("{}:{}", if numbers { "codes" } else { "enum" }, values.join("|"))
        }
        None if kind.is_empty() => "any".into(),
        None => kind.to_owned(),
    }
}

fn print(source: &Source, version: &str, kinds: &BTreeMap<(String, String), Kind>) -> Result<String> {
    let mut text = format!(
        "# Every field of the CustomResourceDefinitions of {} {version} (Apache-2.0), spec only.\n\
         # Made by `cargo xtask generate --fields`. [] = item of a list, * = key of a map, ~ = experimental channel only.\n",
        source.module
    );
    for ((group, name), kind) in kinds {
        let versions: Vec<&str> = kind.versions.iter().map(String::as_str).collect();
        let channel = if kind.experimental { "~" } else { "" };
        writeln!(text, "\nkind {group} {name} {}{channel}", versions.join(","))?;
        for (path, (what, experimental)) in &kind.fields {
            let mark = if *experimental && !kind.experimental {
                " ~"
            } else {
                ""
            };
            writeln!(text, "{path} {what}{mark}")?;
        }
    }
    Ok(text)
}
