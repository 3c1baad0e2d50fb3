//! The program under test: one agent per node, as a process of that node.

use crate::process::{Proc, built};
use crate::promtext::{self, Sample};
use crate::run::Run;
use crate::topology::Node;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Port of `/metrics` and `/healthz/ready` on the node.
pub const METRICS_PORT: u16 = 15020;

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// Node that it serves.
    pub node: Arc<Node>,
    /// Folder of YAML.
    pub config: PathBuf,
    /// Folder of the mesh's CA, shared by the nodes.
    pub ca: PathBuf,
    /// Worker threads; the agent's default if none.
    pub workers: Option<usize>,
    /// More arguments.
    pub extra: Vec<String>,
    logs: PathBuf,
}

/// A running agent; killed with its handle, which leaves its pins (see [`AgentSpec::cleanup`]).
#[derive(Debug)]
pub struct Agent {
    /// How it was started.
    pub spec: AgentSpec,
    /// Its process.
    pub proc: Proc,
    /// When it was started.
    pub started: Instant,
}

impl AgentSpec {
    /// The agent of a node, on the run's `config` and `ca` folders, which are made if they are missing.
    ///
    /// # Errors
    /// The folders cannot be made.
    pub fn new(run: &Run, node: &Arc<Node>) -> Result<Self> {
        let (config, ca) = (run.dir().join("config"), run.dir().join("ca"));
        for dir in [&config, &ca] {
            std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        Ok(Self {
            node: node.clone(),
            config,
            ca,
            workers: None,
            extra: Vec::new(),
            logs: run.logs(),
        })
    }

    /// Its folder of sockets and state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        PathBuf::from("/run/heddle").join(&self.node.unique)
    }

    /// Its folder of BPF pins.
    #[must_use]
    pub fn bpf_dir(&self) -> PathBuf {
        PathBuf::from("/sys/fs/bpf").join(format!("heddle-{}", self.node.unique))
    }

    /// Its admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.state_dir().join("admin.sock")
    }

    /// The command line of `mesh-agent run`.
    ///
    /// # Errors
    /// The agent is not built.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.node.system.command(built("mesh-agent")?)?;
        command.arg("run").args(["--node", &self.node.name]);
        command
            .arg("--config")
            .arg(&self.config)
            .arg("--state-dir")
            .arg(self.state_dir());
        command
            .arg("--bpf-dir")
            .arg(self.bpf_dir())
            .arg("--cgroup")
            .arg(&self.node.cgroup);
        command
            .arg("--ca-dir")
            .arg(&self.ca)
            .arg("--admin-socket")
            .arg(self.admin_socket());
        command.args(["--metrics-addr", &format!("[::]:{METRICS_PORT}")]);
        if let Some(workers) = self.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        command.args(&self.extra);
        Ok(command)
    }

    /// Starts it, without waiting.
    ///
    /// # Errors
    /// It is not built or cannot be started.
    pub fn start(&self) -> Result<Agent> {
        std::fs::create_dir_all(self.state_dir())?;
        let started = Instant::now();
        let proc = Proc::spawn(&format!("agent-{}", self.node.name), self.command()?, &self.logs)?;
        Ok(Agent {
            spec: self.clone(),
            proc,
            started,
        })
    }

    /// `mesh-agent cleanup`: what an uninstall does.
    ///
    /// # Errors
    /// It fails; its words are in the error.
    pub fn cleanup(&self) -> Result<()> {
        let mut command = self.node.system.command(built("mesh-agent")?)?;
        command.arg("cleanup").arg("--bpf-dir").arg(self.bpf_dir());
        command.arg("--state-dir").arg(self.state_dir());
        command.arg("--cgroup").arg(&self.node.cgroup);
        succeed("mesh-agent cleanup", command.output()?).map(drop)
    }

    /// Runs `heddle ARGS --admin-socket …` and gives what it printed.
    ///
    /// # Errors
    /// It exits with an error; its words are in the error.
    pub fn heddle(&self, args: &[&str]) -> Result<String> {
        let mut command = self.node.system.command(built("heddle")?)?;
        command.args(args).arg("--admin-socket").arg(self.admin_socket());
        succeed(&format!("heddle {}", args.join(" ")), command.output()?)
    }

    /// As [`AgentSpec::heddle`], with `--output json`.
    ///
    /// # Errors
    /// As there, or no JSON comes.
    pub fn heddle_json(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
        let text = self.heddle(&args)?;
        serde_json::from_str(&text).with_context(|| format!("heddle {}: no JSON: {text}", args.join(" ")))
    }

    /// `GET path` on its metrics address: status and body.
    ///
    /// # Errors
    /// Nobody answers within two seconds.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.node
            .netns
            .http_get(SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT)), path)
    }

    /// Its metrics.
    ///
    /// # Errors
    /// It does not answer 200.
    pub fn metrics(&self) -> Result<Vec<Sample>> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "/metrics of {} answers {status}", self.node.name);
        Ok(promtext::parse(&body))
    }
}

impl Agent {
    /// Waits until it says that it is ready; gives the time since its start.
    ///
    /// # Errors
    /// It ends, or is not ready within `limit`; with the end of its log.
    pub fn ready(&mut self, limit: Duration) -> Result<Duration> {
        loop {
            if matches!(self.spec.get("/healthz/ready"), Ok((200, _))) {
                return Ok(self.started.elapsed());
            }
            let running = self.proc.running();
            if !running || self.started.elapsed() > limit {
                return Err(anyhow!(
                    "agent of {} {} after {:?}:\n{}",
                    self.spec.node.name,
                    if running { "is not ready" } else { "ended" },
                    self.started.elapsed(),
                    self.proc.last_words()
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.proc.kill();
    }

    /// Starts it again as it was; the old process must have ended.
    ///
    /// # Errors
    /// As [`AgentSpec::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        *self = self.spec.start()?;
        Ok(())
    }
}

fn succeed(what: &str, output: Output) -> Result<String> {
    ensure!(
        output.status.success(),
        "{what}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim(),
        String::from_utf8_lossy(&output.stdout).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}
