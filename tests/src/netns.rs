//! Named network namespaces, and running code inside them.

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A network namespace of a run, under `/run/netns`.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    file: Arc<File>,
}

impl Netns {
    /// Makes the namespace, with its loopback up, IPv6 on without duplicate address detection, and reno: the bbr
    /// that some kernels default to paces on veth and would measure its own clock.
    ///
    /// # Errors
    /// Not root, or a namespace of that name exists.
    pub fn create(name: &str) -> Result<Self> {
        ip(None, &format!("netns add {name}"))?;
        let path = PathBuf::from("/run/netns").join(name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let netns = Self {
            name: name.to_owned(),
            file: Arc::new(file),
        };
        netns.ip(&["link set lo up"])?;
        netns.sysctl(&[
            ("net/ipv4/tcp_congestion_control", "reno"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
        ])?;
        Ok(netns)
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// The open namespace.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Runs `ip` commands inside, all of them or none after the first that fails.
    ///
    /// # Errors
    /// `ip` refuses one; its words are in the error.
    pub fn ip(&self, lines: &[&str]) -> Result<()> {
        ip(Some(&self.name), &lines.join("\n"))
    }

    /// Sets sysctls (paths below `/proc/sys`) of this namespace.
    ///
    /// # Errors
    /// The kernel has no such setting or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                std::fs::write(format!("/proc/sys/{key}"), value)
                    .with_context(|| format!("sysctl {key}={value}"))?;
            }
            Ok(())
        })
    }

    /// Runs `f` on a thread of its own inside the namespace. Only its sockets are "in the pod": BPF programs that
    /// look at the cgroup see the test process, so that a pod's own doings belong into a `podkit` process.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `f` fails.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                f()
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `GET path` from inside, over HTTP/1.0: status and body.
    ///
    /// # Errors
    /// Nobody answers within two seconds.
    pub fn http_get(&self, address: SocketAddr, path: &str) -> Result<(u16, String)> {
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            let answer = String::from_utf8_lossy(&answer);
            let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
            let status = head
                .split(' ')
                .nth(1)
                .and_then(|code| code.parse().ok())
                .context("no status")?;
            Ok((status, body.to_owned()))
        })
    }

    /// Moves the calling thread into the namespace for good.
    ///
    /// # Errors
    /// As setns(2).
    pub fn enter(&self) -> Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering namespace {}", self.name))
    }
}

/// Runs lines of `ip -batch`, in a namespace or in the host's.
fn ip(netns: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(netns) = netns {
        command.args(["-n", netns]);
    }
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("running ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
        stdin.write_all(b"\n")?;
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "ip {lines:?} in {}: {}",
        netns.unwrap_or("the host's namespace"),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
