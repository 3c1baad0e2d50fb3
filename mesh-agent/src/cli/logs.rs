//! `logs POD` and `tap POD`: what passed through the mesh for one pod, from the access lines of the agents.

use super::ask::block_on;
use super::fleet::Fleet;
use anyhow::{Context, ensure};
use futures_util::io::AsyncBufReadExt as _;
use futures_util::stream::{StreamExt as _, TryStreamExt as _, select_all};
use kube::api::LogParams;
use std::process::ExitCode;

/// Arguments of both.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pod: `namespace/pod`.
    pod: String,
    /// Go on as lines come (always, for `tap`).
    #[arg(long, short)]
    follow: bool,
    /// How far back, seconds.
    #[arg(long, default_value_t = 3_600)]
    since: i64,
    /// Namespace that Heddle is installed in.
    #[arg(long, env = "HEDDLE_NAMESPACE", default_value = "heddle-system")]
    mesh_namespace: String,
}

/// The lines so far.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    block_on(print(args, args.follow, args.since))
}

/// The lines from now on.
pub(super) fn tap(args: &Args) -> anyhow::Result<ExitCode> {
    block_on(print(args, true, 1))
}

/// Both ends of a connection may have said something, each on its own node: all agents are read.
async fn print(args: &Args, follow: bool, since: i64) -> anyhow::Result<ExitCode> {
    ensure!(args.pod.contains('/'), "{:?}: write namespace/pod", args.pod);
    let fleet = Fleet::connect(&args.mesh_namespace).await?;
    let params = LogParams {
        follow,
        since_seconds: Some(since.max(1)),
        ..LogParams::default()
    };
    let mut streams = Vec::new();
    for agent in fleet.agents().await? {
        let stream = fleet.pods().log_stream(&agent.pod, &params).await;
        let stream = stream.with_context(|| format!("read the log of agent {}", agent.pod))?;
        streams.push(stream.lines().into_stream().boxed_local());
    }
    let mut lines = select_all(streams);
    while let Some(line) = lines.try_next().await? {
        if concerns(&line, &args.pod) {
            println!("{line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether an access line names the pod at either end.
fn concerns(line: &str, pod: &str) -> bool {
    let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
        return false;
    };
    ["src.workload", "dst.workload"]
        .iter()
        .any(|key| line[key] == pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_concerns_the_pod_at_either_end_and_no_other() {
        let line = r#"{"src.workload":"shop/web-1","dst.workload":"shop/db-0","bytes":4}"#;
        assert!(concerns(line, "shop/web-1") && concerns(line, "shop/db-0"));
        assert!(!concerns(line, "shop/web"));
        assert!(!concerns("shop/web-1 in plain words", "shop/web-1"));
    }
}
