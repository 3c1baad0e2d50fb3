//! A real Prometheus on node 1 that scrapes the agents, and promtool.

use crate::agent::METRICS_PORT;
use crate::netns::Netns;
use crate::process::Proc;
use crate::topology::Topology;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

const ADDRESS: &str = "127.0.0.1:9090";

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    netns: Netns,
    _proc: Proc,
}

impl Prometheus {
    /// Starts it, scraping the agents of both nodes each second.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start(ground: &Topology) -> Result<Self> {
        let dir = ground.run().dir().join("prometheus");
        std::fs::create_dir_all(&dir)?;
        let targets: Vec<String> = ground
            .nodes
            .iter()
            .map(|node| format!("\"{}:{METRICS_PORT}\"", node.v4))
            .collect();
        let config = format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: heddle\n  static_configs:\n  - targets: [{}]\n",
            targets.join(", ")
        );
        std::fs::write(dir.join("prometheus.yml"), config)?;
        let node = &ground.nodes[0];
        let mut command = node.system.command("prometheus")?;
        command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        Ok(Self {
            netns: node.netns.clone(),
            _proc: Proc::spawn("prometheus", command, &ground.run().logs())?,
        })
    }

    /// The rows that answer a PromQL query: each has `metric` and `value`.
    ///
    /// # Errors
    /// It does not answer, or not with success.
    pub fn query(&self, promql: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", percent_encoded(promql));
        let (status, body) = self.netns.http_get(ADDRESS.parse()?, &path)?;
        ensure!(status == 200, "Prometheus answers {status}: {body}");
        let answer: Value = serde_json::from_str(&body)?;
        answer["data"]["result"].as_array().cloned().context("no result")
    }
}

/// The one remark that Istio's contract forces: its dashboards ask for this name, and promtool wants base units.
const FORCED: &str =
    "istio_request_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"";

/// What `promtool check metrics` has to say, without what Istio's names force; nothing is best.
///
/// # Errors
/// promtool is not installed.
pub fn promtool(text: &str) -> Result<Vec<String>> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running promtool (package prometheus)")?;
    child
        .stdin
        .take()
        .context("promtool's input")?
        .write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let said = words
        .lines()
        .filter(|line| !line.trim().is_empty() && *line != FORCED);
    Ok(said.map(ToOwned::to_owned).collect())
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
