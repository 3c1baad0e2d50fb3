//! Processes started in a pod or on a node: in its network namespace and its cgroup from their first instruction.

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a process lives.
#[derive(Clone, Debug)]
pub struct Place {
    /// Network namespace.
    pub netns: Arc<File>,
    /// Directory in the cgroup2 tree.
    pub cgroup: PathBuf,
}

impl Place {
    /// A command that will run at this place. The socket-calling process itself has to be in the cgroup, because
    /// that is what cgroup BPF programs look at.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let procs = self.cgroup.join("cgroup.procs");
        let cgroup = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("opening {}", procs.display()))?;
        let netns = self.netns.clone();
        let mut command = Command::new(program);
        let enter = move || {
            nix::unistd::write(cgroup.as_fd(), b"0")?;
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            // A harness that waits for signals on a thread has them blocked, and a blocked mask is inherited.
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            // As container runtimes do: 1,000 connections through a proxy need more than the soft limit of 1,024.
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes a few system calls on descriptors it owns, and
        // allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}

/// A running process; killed with its handle.
#[derive(Debug)]
pub struct Proc {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Proc {
    /// Starts `command` with its output going to `DIR/NAME.out` and `DIR/NAME.err`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let stdout = logs.join(format!("{name}.out"));
        let stderr = logs.join(format!("{name}.err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(append(&stdout)?)
            .stderr(append(&stderr)?)
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            status: None,
            stdout,
            stderr,
        })
    }

    /// The name it was started under: that of its logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it has printed so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What it has printed on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Whether it has not ended.
    pub fn running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status.is_none()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.running() {
            return Err(anyhow!(
                "{} has ended: {:?}; {}",
                self.name,
                self.status,
                self.last_words()
            ));
        }
        kill(Pid::from_raw(self.pid()), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It goes on longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if !self.running()
                && let Some(status) = self.status
            {
                return Ok(status);
            }
            anyhow::ensure!(
                start.elapsed() < limit,
                "{} still runs after {limit:?}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks with SIGTERM, waits, and kills what does not go.
    ///
    /// # Errors
    /// It had to be killed, or had ended before.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let ended = self.wait(limit);
        if ended.is_err() {
            self.kill();
        }
        ended
    }

    /// SIGKILL, and reaps it.
    pub fn kill(&mut self) {
        if self.running() {
            // An error here means that it ended in between, which is what was wanted.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }

    /// The end of its stderr, for an error message.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = self.stderr();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill();
    }
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

/// A program built by this workspace: beside the running test or binary, else in the profile named by
/// `HEDDLE_BIN_DIR`.
///
/// # Errors
/// It is in none of the places; the message says how to build it.
pub fn built(program: &str) -> Result<PathBuf> {
    let mut tried = Vec::new();
    if let Some(dir) = std::env::var_os("HEDDLE_BIN_DIR") {
        tried.push(PathBuf::from(dir));
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    if let Ok(exe) = std::env::current_exe() {
        // target/<profile>/<binary> and target/<profile>/deps/<test>.
        tried.extend(exe.ancestors().skip(1).take(2).map(Path::to_path_buf));
    }
    tried.push(target.join("release"));
    tried.push(target.join("debug"));
    tried
        .iter()
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            anyhow!(
                "no {program} in {tried:?}: build it with `cargo build --release` or run `cargo xtask test`"
            )
        })
}
