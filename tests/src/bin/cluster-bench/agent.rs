//! The agent of one node: its process, as far as that runs on this machine, and its pinned maps.

use crate::api::Api;
use crate::table::Table;
use anyhow::{Context, Result};
use mesh_tests::bpf_maps::PinnedMap;
use mesh_tests::eventually;
use mesh_tests::promtext::{self, Sample};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// A process in `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(pub(crate) i32);

pub(crate) struct Agent {
    pub(crate) process: Process,
    node: String,
    namespace: String,
}

impl Agent {
    /// The newest process that is the agent of `node`, installed in `namespace`.
    pub(crate) fn find(node: &str, namespace: &str) -> Result<Self> {
        let process = eventually(
            &format!("the agent of node {node} among this machine's processes"),
            Duration::from_secs(60),
            || newest(node, namespace),
        )?;
        Ok(Self {
            process,
            node: node.to_owned(),
            namespace: namespace.to_owned(),
        })
    }

    /// Ends it as a crash would; gives the process that the kubelet starts in its place, when that serves, and how
    /// long it took from its start.
    pub(crate) fn crash(self) -> Result<(Self, Duration)> {
        kill(Pid::from_raw(self.process.0), Signal::SIGKILL).context("kill the agent")?;
        self.successor()
    }

    /// The next process, once it serves, and how long it took from its start.
    pub(crate) fn successor(self) -> Result<(Self, Duration)> {
        let limit = Duration::from_secs(180);
        eventually("another agent that is ready", limit, || {
            let process = newest(&self.node, &self.namespace).filter(|p| *p != self.process)?;
            let agent = Self {
                process,
                node: self.node.clone(),
                namespace: self.namespace.clone(),
            };
            let ready = agent.ready_after()?;
            Some((agent, ready))
        })
    }

    /// Time from the start of the process to the file that says that it serves.
    pub(crate) fn ready_after(&self) -> Option<Duration> {
        let file = self.inside("run/heddle-ready/serves");
        let ready = fs::metadata(file).ok()?.modified().ok()?;
        // The volume outlives the container: a file from before is the last agent's.
        ready.duration_since(self.process.started()?).ok()
    }

    /// A path as the agent sees it.
    fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.process.0)).join(path)
    }

    /// A map of the data path.
    pub(crate) fn map(&self, name: &str) -> Result<PinnedMap> {
        PinnedMap::open(&self.inside("sys/fs/bpf/heddle"), name)
    }

    /// Its metrics, through the API server.
    ///
    /// # Errors
    /// No pod of the agent's is there, or it does not answer.
    pub(crate) fn metrics(&self, api: &Api) -> Result<Vec<Sample>> {
        let pods = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let query = "labelSelector=app%3Dheddle-agent&fieldSelector=spec.nodeName%3D";
        let list = api.get_json(&format!("{pods}?{query}{}", self.node))?;
        let pod = list["items"][0]["metadata"]["name"]
            .as_str()
            .context("the agent has no pod")?;
        let text = api.get(&format!("{pods}/{pod}:15020/proxy/metrics"))?;
        Ok(promtext::parse(&text))
    }

    /// Watch events of a kind that it has had.
    ///
    /// # Errors
    /// As [`Agent::metrics`].
    pub(crate) fn events(&self, api: &Api, kind: &str) -> Result<f64> {
        self.of_kind(api, "heddle_source_events_total", kind)
    }

    /// Objects of a kind that it knows.
    ///
    /// # Errors
    /// As [`Agent::metrics`].
    pub(crate) fn objects(&self, api: &Api, kind: &str) -> Result<f64> {
        self.of_kind(api, "heddle_source_objects", kind)
    }

    fn of_kind(&self, api: &Api, metric: &str, kind: &str) -> Result<f64> {
        let samples = self.metrics(api)?;
        Ok(promtext::sum(&samples, metric, &[("kind", kind)]))
    }

    /// How much memory it has, with a mesh of the size that the goal is for.
    pub(crate) fn memory(&self, table: &mut Table, when: &str) {
        self.resident(table, when, 150.0);
    }

    /// How much memory it has, and how much it may have, MiB.
    pub(crate) fn resident(&self, table: &mut Table, when: &str, goal: f64) {
        let status = |field: &str| self.process.status_mib(field);
        table.add(
            &format!("agent: resident {when}"),
            status("VmRSS"),
            "MiB",
            Some(goal),
        );
        let shared = status("RssFile").map_or_else(|e| format!("{e:#}"), |mib| format!("{mib:.1} MiB"));
        table.words(format!("of that {shared} are program text and other files"));
        table.add(
            &format!("agent: most that was resident {when}"),
            status("VmHWM"),
            "MiB",
            None,
        );
    }
}

fn newest(node: &str, namespace: &str) -> Option<Process> {
    let agents = processes().filter(|process| process.is_agent(node, namespace));
    agents.max_by_key(|process| process.start_ticks())
}

pub(crate) fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Process))
}

impl Process {
    fn is_agent(self, node: &str, namespace: &str) -> bool {
        let args = self.arguments();
        if args
            .first()
            .is_none_or(|program| !program.ends_with("mesh-agent"))
        {
            return false;
        }
        let environ = fs::read(format!("/proc/{}/environ", self.0)).unwrap_or_default();
        let has = |wanted: String| environ.split(|c| *c == 0).any(|it| it == wanted.as_bytes());
        args.get(1).is_some_and(|verb| verb == "run")
            && has(format!("HEDDLE_NODE={node}"))
            && has(format!("HEDDLE_NAMESPACE={namespace}"))
    }

    pub(crate) fn arguments(self) -> Vec<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.0)).unwrap_or_default();
        let words = line.split(|c| *c == 0).filter(|word| !word.is_empty());
        words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    }

    /// Fields of `/proc/PID/stat` from the third one, which is number 0 here.
    fn stat(self) -> Option<Vec<u64>> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // The name in parentheses may have anything in it.
        let (_, rest) = stat.rsplit_once(") ")?;
        Some(
            rest.split(' ')
                .map(|field| field.trim().parse().unwrap_or(0))
                .collect(),
        )
    }

    fn start_ticks(self) -> Option<u64> {
        self.stat()?.get(19).copied()
    }

    fn started(self) -> Option<SystemTime> {
        // Not by `btime`, which has whole seconds only: the uptime has hundredths.
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let uptime = Duration::try_from_secs_f64(uptime.split(' ').next()?.parse().ok()?).ok()?;
        let age = uptime.checked_sub(ticks(self.start_ticks()?))?;
        SystemTime::now().checked_sub(age)
    }

    /// CPU that it has used.
    pub(crate) fn cpu(self) -> Option<Duration> {
        let stat = self.stat()?;
        Some(ticks(stat.get(11)? + stat.get(12)?))
    }

    pub(crate) fn status_mib(self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).context("the agent has ended")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib: f64 = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .with_context(|| format!("no {field} in /proc/PID/status"))?
            .parse()?;
        Ok(kib / 1024.0)
    }
}

/// USER_HZ is 100 on every architecture that Linux has had for long.
fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 10)
}
