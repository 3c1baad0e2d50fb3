//! `analyze`: what is wrong with files or with a cluster's objects.

use super::Output;
use super::ask::block_on;
use super::objects::Objects;
use mesh_core::analyze::{Level, Message, analyze};
use mesh_core::model::snapshot::MeshSettings;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// What istioctl exits with when it found something; 1 is for not having been able to look.
const FOUND: u8 = 79;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files or folders of YAML or JSON, `-` for standard input. Without any, the kubeconfig's cluster is looked at.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The same.
    #[arg(long = "filename", short, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Look at the cluster as it would be with the files; `false`: at the files alone.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    use_kube: Option<bool>,
    /// Only messages on objects of this namespace.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Messages on objects of all namespaces, which is what happens without --namespace.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Exit with 79 if a message is at least this bad.
    #[arg(long, default_value = "Error")]
    failure_threshold: Threshold,
    /// Leave out messages that are less bad.
    #[arg(long, default_value = "Info")]
    output_threshold: Threshold,
    /// Cluster domain.
    #[arg(long, env = "HEDDLE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// Names of levels, in any case.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Threshold {
    #[value(name = "Error", alias = "error", alias = "ERROR")]
    Error,
    #[value(name = "Warning", alias = "warning", alias = "WARNING")]
    Warning,
    #[value(name = "Info", alias = "info", alias = "INFO")]
    Info,
}

impl From<Threshold> for Level {
    fn from(threshold: Threshold) -> Self {
        match threshold {
            Threshold::Error => Self::Error,
            Threshold::Warning => Self::Warning,
            Threshold::Info => Self::Info,
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let files: Vec<PathBuf> = args.files.iter().chain(&args.file).cloned().collect();
    let cluster = args.use_kube.unwrap_or(files.is_empty());
    let objects = block_on(Objects::read(&files, cluster))?;
    let settings = MeshSettings {
        cluster_domain: args.cluster_domain.as_str().into(),
        ..MeshSettings::default()
    };
    let mut messages = analyze(&objects.given(), &settings);
    let about = |message: &Message, namespace: &str| {
        message.namespace == namespace || message.object == format!("Namespace {namespace}")
    };
    if let Some(namespace) = &args.namespace {
        messages.retain(|message| about(message, namespace));
    }
    let fails = |message: &Message| message.level >= Level::from(args.failure_threshold);
    let code = if messages.iter().any(fails) {
        ExitCode::from(FOUND)
    } else {
        ExitCode::SUCCESS
    };
    messages.retain(|message| message.level >= Level::from(args.output_threshold));
    let places = objects.by_origin();
    let place = |message: &Message| match places.get(&message.origin) {
        Some(document) => format!("{}:{}", document.file, document.line_of(&message.field)),
        None => String::new(),
    };
    match args.output {
        Output::Json => {
            let rows: Vec<Value> = messages.iter().map(|m| row(m, &place(m))).collect();
            println!("{}", Value::from(rows));
        }
        Output::Text if messages.is_empty() => {
            println!("✔ nothing found in {} objects", objects.given().len());
        }
        Output::Text => messages.iter().for_each(|m| println!("{}", line(m, &place(m)))),
    }
    Ok(code)
}

/// As istioctl prints it.
fn line(message: &Message, place: &str) -> String {
    let (object, place) = (message.object.as_str(), place);
    let of = [object, place].map(str::trim).join(" ");
    let at = if message.field.is_empty() {
        String::new()
    } else {
        format!("{}: ", message.field)
    };
    format!(
        "{:?} [{}] ({}) {at}{}",
        message.level,
        message.code,
        of.trim(),
        message.message
    )
}

fn row(message: &Message, place: &str) -> Value {
    json!({
        "code": message.code,
        "name": message.name,
        "level": message.level,
        "object": message.object,
        "namespace": message.namespace,
        "field": message.field,
        "message": message.message,
        "place": place,
    })
}
