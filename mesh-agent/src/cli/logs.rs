//! `logs POD` and `tap POD`: what passed through the mesh for one pod, from the access lines of the agents.

use super::ask::block_on;
use super::fleet::Fleet;
use anyhow::Context;
use futures_util::io::AsyncBufReadExt as _;
use futures_util::stream::{StreamExt as _, TryStreamExt as _, select_all};
use kube::api::LogParams;
use std::net::{IpAddr, SocketAddr};
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
    let fleet = Fleet::connect(&args.mesh_namespace).await?;
    let pod = PodWords {
        ips: fleet.addresses_of(&args.pod).await?,
        name: &args.pod,
    };
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
        if pod.in_line(&line) {
            println!("{line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The words by which lines name a pod: its addresses in access lines, whose workloads are owners; its name in lines of
/// kernel events.
struct PodWords<'a> {
    ips: Vec<IpAddr>,
    name: &'a str,
}

impl PodWords<'_> {
    /// Whether a line is about a connection of the pod, at either end.
    fn in_line(&self, line: &str) -> bool {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
            return false;
        };
        let at = |key: &str| {
            line[key]
                .as_str()
                .and_then(|addr| addr.parse::<SocketAddr>().ok())
        };
        ["src.addr", "dst.addr", "upstream"]
            .iter()
            .filter_map(|key| at(key))
            .any(|addr| self.ips.contains(&addr.ip()))
            || ["src.workload", "dst.workload"]
                .iter()
                .any(|key| line[key] == self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_concerns_the_pod_at_either_end_and_no_other() {
        let pod = |ip: &str, name| PodWords {
            ips: vec![ip.parse().unwrap()],
            name,
        };
        let line = r#"{"src.addr":"10.0.0.1:4000","dst.addr":"10.0.0.2:80","src.workload":"web"}"#;
        assert!(pod("10.0.0.1", "shop/web-1").in_line(line) && pod("10.0.0.2", "shop/db-0").in_line(line));
        assert!(!pod("10.0.0.3", "shop/web").in_line(line));
        let event = r#"{"src.workload":"shop/web-1","dst.addr":"10.96.0.1:80"}"#;
        assert!(pod("10.0.0.1", "shop/web-1").in_line(event));
        assert!(!pod("10.0.0.1", "shop/web-1").in_line("10.0.0.1:80 in plain words"));
    }
}
