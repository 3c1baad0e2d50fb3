//! Typed access to the `podkit` program, which acts inside pods: every call is a process in the pod's namespace and
//! cgroup, and answers one JSON object.

use crate::process::{Proc, built};
use crate::topology::Pod;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

impl Pod {
    /// Runs `podkit ARGS` to its end and gives its last line, one JSON object.
    ///
    /// # Errors
    /// It prints none. A failed connection is an answer, not an error.
    pub fn podkit(&self, args: &[&str]) -> Result<Value> {
        let output = self.output(&built("podkit")?, args)?;
        let text = String::from_utf8_lossy(&output.stdout);
        last_json(&text).with_context(|| {
            format!(
                "podkit {} in {}: {} {}",
                args.join(" "),
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Starts a podkit server in the pod and waits until it listens.
    ///
    /// # Errors
    /// It ends, or does not listen within five seconds.
    pub fn serve(&self, args: &[&str]) -> Result<Proc> {
        let mut proc = self.start_podkit(args)?;
        await_listening(&mut proc)?;
        Ok(proc)
    }

    /// Starts podkit in the pod without waiting.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_podkit(&self, args: &[&str]) -> Result<Proc> {
        // Several of a kind in one pod must not share a log, and the arguments tell them apart.
        let name: String = args
            .join("-")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .take(80)
            .collect();
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.spawn(&format!("{number}-{name}"), &built("podkit")?, args)
    }
}

static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Waits until a server has printed its `listening` line.
///
/// # Errors
/// It ends, or says nothing within five seconds.
pub fn await_listening(proc: &mut Proc) -> Result<()> {
    crate::eventually("a server to listen", Duration::from_secs(5), || {
        (proc.stdout().contains("\"listening\"") || !proc.running()).then_some(())
    })?;
    ensure!(proc.running(), "a server ended at once: {}", proc.last_words());
    Ok(())
}

/// The last line of an output that is a JSON object.
///
/// # Errors
/// There is none.
pub fn last_json(text: &str) -> Result<Value> {
    text.lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object))
        .context("no JSON object in the output")
}
