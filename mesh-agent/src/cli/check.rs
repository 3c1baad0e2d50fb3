//! `check`: the table of what this machine has and lacks.

use super::Output;
use crate::bpf::{Feature, check_features};
use crate::cni::install::examine;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// CNI configuration directory: tests whether the CNI plug-in can be put into the file that the runtime uses.
    #[arg(long, env = "HEDDLE_CNI_CONF_DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut rows = check_features();
    rows.extend(args.cni_conf_dir.as_deref().map(cni_row));
    let lacking = rows
        .iter()
        .filter(|row| row.required && row.present.is_err())
        .count();
    match args.output {
        Output::Json => {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| {
                    json!({"feature": row.name, "present": row.present.is_ok(), "required": row.required,
                        "reason": row.present.as_ref().err(), "without": row.without})
                })
                .collect();
            println!("{}", json!({"ok": lacking == 0, "features": rows}));
        }
        Output::Text => {
            for row in &rows {
                print(row);
            }
            let verdict = if lacking == 0 {
                "this machine can run the agent"
            } else {
                "the agent cannot run here"
            };
            println!("\n{verdict}");
        }
    }
    Ok(if lacking == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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

fn print(row: &Feature) {
    match &row.present {
        Ok(()) => println!("✔ {}", row.name),
        Err(reason) => {
            let mark = if row.required { '✘' } else { '!' };
            println!(
                "{mark} {}\n    {reason}\n    without it: {}",
                row.name, row.without
            );
        }
    }
}
