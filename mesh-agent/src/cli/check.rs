//! `check`: the table of what this machine, or the cluster, has and lacks.

use super::Output;
use super::ask::block_on;
use super::fleet::Fleet;
use super::rights;
use super::survey::{self, Finding};
use crate::bpf::{Feature, check_features};
use crate::cni::install::examine;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look at this machine's kernel even if there is a cluster.
    #[arg(long)]
    local: bool,
    /// Namespace that Heddle is, or is to be, installed in.
    #[arg(long, env = "HEDDLE_NAMESPACE", default_value = "heddle-system")]
    mesh_namespace: String,
    /// CNI configuration directory: tests whether the CNI plug-in can be put into the file that the runtime uses.
    #[arg(long, env = "HEDDLE_CNI_CONF_DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// Of this machine inside an agent's pod, where `HEDDLE_NODE` names the node, or without a cluster; else of the cluster.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.local || std::env::var_os("HEDDLE_NODE").is_some() {
        return Ok(machine(args));
    }
    block_on(async {
        match Fleet::connect(&args.mesh_namespace).await {
            Ok(fleet) => cluster(args, &fleet, false).await,
            Err(_) => Ok(machine(args)),
        }
    })
}

/// `verify-install`: the same for what is installed; nothing installed is a failure.
pub(super) fn verify_install(args: &Args) -> anyhow::Result<ExitCode> {
    block_on(async {
        let fleet = Fleet::connect(&args.mesh_namespace).await?;
        cluster(args, &fleet, true).await
    })
}

async fn cluster(args: &Args, fleet: &Fleet, must_be_installed: bool) -> anyhow::Result<ExitCode> {
    let mut findings = if must_be_installed {
        Vec::new()
    } else {
        survey::before(fleet).await?
    };
    let mut outside = Vec::new();
    let agents = fleet.agents().await;
    let installed = agents.is_ok();
    if must_be_installed || installed {
        findings.extend(survey::installed(fleet, &args.mesh_namespace).await?);
        findings.extend(
            rights::missing(fleet, &args.mesh_namespace)
                .await
                .unwrap_or_else(|error| {
                    let name = "rights of the accounts heddle-agent and heddle-controller";
                    vec![Finding::new(
                        name,
                        false,
                        Some(format!("cannot be asked for: {error}")),
                    )]
                }),
        );
    }
    if let Ok(agents) = agents {
        let kernels = fleet
            .ask_all(&agents, &["check".to_owned(), "--local".to_owned()])
            .await;
        for (agent, answer) in kernels {
            let features = answer
                .as_ref()
                .ok()
                .and_then(|answer| answer["features"].as_array().cloned());
            for lacking in features.iter().flatten().filter(|row| row["present"] != true) {
                let row = |key: &str| lacking[key].as_str().unwrap_or_default().to_owned();
                findings.push(Finding {
                    name: format!("node {}: {}", agent.node, row("feature")),
                    wrong: Some(row("reason")),
                    required: lacking["required"] == true,
                });
            }
        }
        let statuses = fleet.ask_all(&agents, &["status".to_owned()]).await;
        findings.extend(survey::agents(&statuses));
        for (agent, status) in &statuses {
            outside.extend(status.iter().flat_map(|status| survey::outside(agent, status)));
        }
    }
    let ok = !findings
        .iter()
        .any(|finding| finding.required && finding.wrong.is_some());
    match args.output {
        Output::Json => {
            let features: Vec<_> = findings.iter().map(Finding::json).collect();
            println!(
                "{}",
                json!({"ok": ok, "installed": installed, "features": features, "outside": outside})
            );
        }
        Output::Text => {
            findings.iter().for_each(print);
            if !outside.is_empty() {
                println!("\nnot in the mesh:");
            }
            outside.iter().for_each(|line| println!("  {line}"));
            println!("\n{}", verdict(ok, installed));
        }
    }
    Ok(code(ok))
}

const fn verdict(ok: bool, installed: bool) -> &'static str {
    match (ok, installed) {
        (true, true) => "the mesh is as it should be",
        (true, false) => "this cluster can run Heddle; it is not installed",
        (false, true) => "something is missing: see the lines with ✘",
        (false, false) => "this cluster cannot run Heddle as it is: see the lines with ✘",
    }
}

fn machine(args: &Args) -> ExitCode {
    let mut rows = check_features();
    rows.extend(args.cni_conf_dir.as_deref().map(cni_row));
    let ok = !rows.iter().any(|row| row.required && row.present.is_err());
    match args.output {
        Output::Json => {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| {
                    json!({"feature": row.name, "present": row.present.is_ok(), "required": row.required,
                        "reason": row.present.as_ref().err(), "without": row.without})
                })
                .collect();
            println!("{}", json!({"ok": ok, "features": rows}));
        }
        Output::Text => {
            for row in &rows {
                let wrong = row.present.as_ref().err();
                print(&Finding {
                    name: row.name.to_string(),
                    wrong: wrong.map(|reason| format!("{reason}\n    without it: {}", row.without)),
                    required: row.required,
                });
            }
            let verdict = if ok {
                "this machine can run the agent"
            } else {
                "the agent cannot run here"
            };
            println!("\n{verdict}");
        }
    }
    code(ok)
}

fn print(finding: &Finding) {
    match &finding.wrong {
        None => println!("✔ {}", finding.name),
        Some(reason) => {
            let mark = if finding.required { '✘' } else { '!' };
            println!("{mark} {}\n    {reason}", finding.name);
        }
    }
}

const fn code(ok: bool) -> ExitCode {
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cni_row(dir: &Path) -> Feature {
    let present = match examine(dir) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(format!("no CNI configuration in {} yet", dir.display())),
        Err(error) => Err(error.to_string()),
    };
    Feature {
        name: format!("CNI configuration in {} that takes a plug-in", dir.display()),
        present,
        without: "new pods are captured shortly after their start, not before it",
        required: false,
    }
}
