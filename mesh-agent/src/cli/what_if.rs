//! `what-if`: which requests would be routed otherwise if these objects were applied.

use super::Output;
use super::ask::block_on;
use super::objects::Objects;
use anyhow::{Context, bail};
use mesh_core::model::snapshot::MeshSettings;
use mesh_core::state::{Problem, State};
use mesh_core::whatif::{Difference, Fate, Request, differences};
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What would be applied: files or folders of YAML or JSON.
    #[arg(long = "filename", short, required = true, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Requests, one JSON object a line: client (namespace/pod) or namespace and labels, method, host, path, headers, port,
    /// gateway. Lines of `heddle logs` are taken as they are. `-` for standard input.
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// What is in force: files or folders, with pods or endpoints if answers are to be told from errors. Without it, the
    /// kubeconfig's cluster.
    #[arg(long, value_name = "DIR")]
    current_from: Vec<PathBuf>,
    /// Cluster domain.
    #[arg(long, env = "HEDDLE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let cluster = args.current_from.is_empty();
    let (current, new) = block_on(async {
        let current = Objects::read(&args.current_from, cluster).await?;
        Ok((current, Objects::read(&args.file, false).await?))
    })?;
    let requests = read_requests(&args.requests)?;
    let settings = MeshSettings {
        cluster_domain: args.cluster_domain.as_str().into(),
        ..MeshSettings::default()
    };
    let mut state = State::new(settings);
    current.list_into(&mut state);
    let before = state.snapshot();
    let known: HashSet<String> = state.problems().iter().map(text).collect();
    for given in new.given() {
        state.apply(mesh_core::state::Change::Apply {
            object: given.object.clone(),
            origin: given.origin,
        });
    }
    let after = state.snapshot();
    let problems: Vec<Problem> = state.problems();
    let new_problems: Vec<&Problem> = problems.iter().filter(|p| !known.contains(&text(p))).collect();
    let found = match differences(&before, &after, &requests) {
        Ok(found) => found,
        Err(error) => bail!("{}: {error}", args.requests.display()),
    };
    match args.output {
        Output::Json => println!(
            "{}",
            json!({
                "requests": requests.len(),
                "different": found,
                "problems": new_problems.iter().map(|p| text(p)).collect::<Vec<_>>(),
            })
        ),
        Output::Text => {
            for problem in &new_problems {
                println!("problem: {}", text(problem));
            }
            found.iter().for_each(print);
            println!(
                "{} of {} requests would be routed otherwise",
                found.len(),
                requests.len()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(problem: &Problem) -> String {
    problem.rejected.to_string()
}

fn read_requests(path: &Path) -> anyhow::Result<Vec<Request>> {
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).context("read standard input")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?
    };
    let mut requests = Vec::new();
    for (number, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        match Request::read(line) {
            Ok(request) => requests.extend(request),
            Err(error) => bail!("{}:{}: {error}", path.display(), number + 1),
        }
    }
    Ok(requests)
}

fn print(difference: &Difference) {
    let request = &difference.request;
    let client = match (&request.client, &request.client_address) {
        (Some(pod), _) => pod.clone(),
        (None, Some(address)) => address.to_string(),
        (None, None) => format!("a pod of {}", request.namespace.as_deref().unwrap_or("default")),
    };
    println!(
        "{}. {} {}{} from {client}",
        difference.index + 1,
        request.method,
        request.host,
        request.path
    );
    println!("   now:  {}", describe(&difference.before));
    println!("   then: {}", describe(&difference.after));
}

fn describe(fate: &Fate) -> String {
    let share = |(what, thousandths): (&String, &u32)| match thousandths {
        1_000 => what.clone(),
        part => format!("{what} ({}%)", f64::from(*part) / 10.0),
    };
    let mut text = fate.outcomes.iter().map(share).collect::<Vec<_>>().join(", ");
    for copy in fate.mirrors.iter().map(share) {
        text.push_str(&format!(", copy to {copy}"));
    }
    for (delay, part) in &fate.delays_ms {
        text.push_str(&format!(", delay {delay} ms ({}%)", f64::from(*part) / 10.0));
    }
    if let Some(timeout) = fate.timeout_ms {
        text.push_str(&format!(", timeout {timeout} ms"));
    }
    text.push_str(&format!(", retries {}", fate.retries));
    match &fate.rule {
        Some(rule) => format!("{text}, by {rule}"),
        None => format!("{text}, by default"),
    }
}
