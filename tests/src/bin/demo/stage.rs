//! The stage: the application on its ground, the load that never pauses, the agents.

use anyhow::{Context, Result};
use mesh_tests::agent::{Agent, AgentSpec};
use mesh_tests::bpf_objects::BpfObjects;
use mesh_tests::podkit::last_json;
use mesh_tests::process::Proc;
use mesh_tests::topology::Topology;
use mesh_tests::weather::{FRONTEND, Weather};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Requests a second of the load.
const RATE: f64 = 50.0;

// Fields are dropped in this order: processes before the ground that they stand on.
pub(crate) struct Stage {
    pub(crate) agents: Vec<Agent>,
    pub(crate) load: Option<Proc>,
    pub(crate) weather: Weather,
    pub(crate) ground: Topology,
    pub(crate) bpf_before: BpfObjects,
    pub(crate) quick: bool,
}

/// One request of the load.
pub(crate) struct Request {
    pub(crate) start_ms: u64,
    pub(crate) ok: bool,
    pub(crate) version: String,
    pub(crate) error: String,
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Stage {
    pub(crate) fn new(quick: bool) -> Result<Self> {
        let bpf_before = BpfObjects::now();
        let mut ground = Topology::new()?;
        ground.run().remove_on_signal()?;
        let weather = Weather::start(&mut ground)?;
        Ok(Self {
            agents: Vec::new(),
            load: None,
            weather,
            ground,
            bpf_before,
            quick,
        })
    }

    fn trace(&self) -> PathBuf {
        self.ground.run().dir().join("load.trace")
    }

    pub(crate) fn start_load(&mut self) -> Result<()> {
        let (rate, trace) = (RATE.to_string(), self.trace().display().to_string());
        let args = [
            "load",
            "--to",
            FRONTEND,
            "--host",
            "frontend:3000",
            "--rate",
            &rate,
            "--trace",
            &trace,
        ];
        self.load = Some(self.weather.client.serve(&args)?);
        Ok(())
    }

    /// Ends the load and gives its summary.
    pub(crate) fn stop_load(&mut self) -> Result<Value> {
        let mut load = self.load.take().context("no load runs")?;
        load.stop(Duration::from_secs(10))?;
        last_json(&load.stdout())
    }

    /// The agent of each node, on the same folder of YAML.
    pub(crate) fn specs(&self) -> Result<Vec<AgentSpec>> {
        self.ground
            .nodes
            .iter()
            .map(|node| AgentSpec::new(self.ground.run(), node))
            .collect()
    }

    /// Lets the load run for a while.
    pub(crate) fn watch(&self, seconds: f64) {
        let seconds = if self.quick { seconds / 2.0 } else { seconds };
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }

    /// The load's requests that began at or after `from` and before `to`, and have ended.
    pub(crate) fn requests(&self, from: u64, to: u64) -> Result<Vec<Request>> {
        let text = std::fs::read_to_string(self.trace()).context("the load's trace")?;
        let read = |line: &str| -> Option<Request> {
            let line: Value = serde_json::from_str(line).ok()?;
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let start_ms = line["start_ms"].as_u64()?;
            Some(Request {
                start_ms,
                ok: line["ok"] == true,
                version: text("field"),
                error: text("error"),
            })
        };
        let mut requests: Vec<_> = text
            .lines()
            .filter_map(read)
            .filter(|r| (from..to).contains(&r.start_ms))
            .collect();
        requests.sort_by_key(|request| request.start_ms);
        Ok(requests)
    }
}

/// Answers by version.
pub(crate) fn split(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut split = BTreeMap::new();
    for request in requests.iter().filter(|request| request.ok) {
        *split.entry(request.version.clone()).or_default() += 1;
    }
    split
}

/// How many failed, and the first reason.
pub(crate) fn failed(requests: &[Request]) -> (usize, String) {
    let mut failures = requests.iter().filter(|request| !request.ok);
    let first = failures.next();
    (
        failures.count() + usize::from(first.is_some()),
        first.map(|r| r.error.clone()).unwrap_or_default(),
    )
}
