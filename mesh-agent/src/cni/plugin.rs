//! The plug-in that the container runtime runs for every sandbox (CNI 0.3.0 to 1.1.0, chained).
//!
//! It is on the path of every pod start of the node, so it starts nothing: no runtime, no threads, no log.

mod ask;
mod orphan;
mod spec;

use super::{Answer, Operation, PodRef, Question};
use ask::{Unanswered, ask, ask_once};
use spec::{CniError, Command, Invocation, NetConf, code};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long `DEL` and `CHECK` wait for the agent, which need not be there.
const BRIEF: Duration = Duration::from_millis(500);
/// Runtimes hand over a few KiB.
const MAX_INPUT_BYTES: u64 = 4 * 1024 * 1024;

/// Whether a container runtime calls this program as its plug-in: by name, by verb, or by `CNI_COMMAND` without any
/// argument.
#[must_use]
pub fn is_called() -> bool {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let by_name = std::path::Path::new(&program).file_name() == Some(OsStr::new(super::PLUGIN_TYPE));
    match (args.next(), args.next()) {
        (None, _) => by_name || std::env::var_os("CNI_COMMAND").is_some(),
        (Some(verb), None) => verb == "cni",
        _ => false,
    }
}

/// Runs the plug-in on the process's environment, input and output.
#[must_use]
pub fn main() -> ExitCode {
    let mut input = String::new();
    let read = std::io::stdin()
        .lock()
        .take(MAX_INPUT_BYTES)
        .read_to_string(&mut input);
    let input = read.map(|_| input).map_err(|error| error.to_string());
    let outcome = run(|name| std::env::var(name).ok(), &input);
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::FAILURE),
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What goes to standard output: on success, or as the error that the runtime shows.
fn run(variable: impl Fn(&str) -> Option<String>, input: &Result<String, String>) -> Result<String, String> {
    let done = Invocation::command(&variable).and_then(|command| match command {
        // Whatever is wrong, the pod's end is not held up by it.
        Command::Del => Ok(del(&variable, input).unwrap_or_default()),
        command => serve(command, &variable, input),
    });
    done.map_err(|error| error.to_json(spec::version_of(input.as_deref().unwrap_or_default())))
}

fn serve(
    command: Command,
    variable: &impl Fn(&str) -> Option<String>,
    input: &Result<String, String>,
) -> Result<String, CniError> {
    let input = input
        .as_deref()
        .map_err(|error| CniError::new(code::IO, format!("cannot read the input: {error}")))?;
    if command == Command::Version {
        return Ok(spec::versions(input));
    }
    let conf = NetConf::parse(input)?;
    match command {
        Command::Add => add(&conf, &Invocation::parse(variable)?),
        Command::Check => check(&conf, &Invocation::parse(variable)?),
        // STATUS: were this node called unready whenever the agent restarts, its running pods would be evicted; pods that
        // must wait for the agent wait in their ADD. GC: the plug-in holds nothing.
        Command::Del | Command::Version | Command::Status | Command::Gc => Ok(String::new()),
    }
}

fn add(conf: &NetConf<'_>, call: &Invocation) -> Result<String, CniError> {
    let result = conf.prev_result.ok_or_else(|| {
        CniError::new(
            code::INVALID_CONF,
            "field prevResult is missing: heddle-cni comes after the plug-ins that make the pod's network",
        )
    })?;
    let Some(pod) = call.pod.as_ref().filter(|pod| !conf.excludes(pod)) else {
        return Ok(result.to_owned());
    };
    let deadline = Instant::now() + conf.timeout;
    match ask(&conf.socket, Operation::Add, &question(conf, call, pod), deadline) {
        Ok(Answer::Captured | Answer::NotEnrolled { .. }) => Ok(result.to_owned()),
        Ok(Answer::Failed { reason }) => Err(CniError::new(
            code::CAPTURE_FAILED,
            format!("pod {pod} belongs in the mesh, but cannot be captured: {reason}"),
        )),
        Err(_) if conf.fail_open => Ok(result.to_owned()),
        Err(Unanswered::Absent(_)) if conf.orphaned.as_ref().is_some_and(orphan::removed) => {
            Ok(result.to_owned())
        }
        Err(error) => Err(absent(pod, conf, &error)),
    }
}

/// Runtimes check running pods, too, for which an agent that restarts is no fault.
fn check(conf: &NetConf<'_>, call: &Invocation) -> Result<String, CniError> {
    let Some(pod) = call.pod.as_ref().filter(|pod| !conf.excludes(pod)) else {
        return Ok(String::new());
    };
    let question = question(conf, call, pod);
    match ask_once(&conf.socket, Operation::Check, &question, Instant::now() + BRIEF) {
        Ok(Answer::Failed { reason }) => Err(CniError::new(
            code::CAPTURE_FAILED,
            format!("pod {pod} belongs in the mesh, but is not captured: {reason}"),
        )),
        Ok(Answer::Captured | Answer::NotEnrolled { .. }) | Err(_) => Ok(String::new()),
    }
}

/// Tells the agent, if there is one. There is nothing to say to the runtime.
fn del(variable: &impl Fn(&str) -> Option<String>, input: &Result<String, String>) -> Option<String> {
    let conf = NetConf::parse(input.as_deref().ok()?).ok()?;
    let call = Invocation::parse(variable).ok()?;
    let pod = call.pod.as_ref().filter(|pod| !conf.excludes(pod))?;
    let question = question(&conf, &call, pod);
    let _ = ask_once(&conf.socket, Operation::Del, &question, Instant::now() + BRIEF);
    None
}

fn question(conf: &NetConf<'_>, call: &Invocation, pod: &PodRef) -> Question {
    Question {
        pod: pod.clone(),
        container_id: call.container_id.clone(),
        netns: call.netns.clone(),
        ips: conf.ips.clone(),
    }
}

/// What the pod's Event says (`FailedCreatePodSandBox`): which pod, why, and where to look.
fn absent(pod: &PodRef, conf: &NetConf<'_>, error: &Unanswered) -> CniError {
    let waited = conf.timeout.as_secs();
    let socket = conf.socket.display();
    let message = match error {
        Unanswered::Absent(cause) => format!(
            "pod {pod} waits for the mesh: no Heddle agent answers on this node ({socket}: {cause}); \
             is its heddle-agent pod running? The start is tried again"
        ),
        Unanswered::Silent(cause) => format!(
            "pod {pod} waits for the mesh: the Heddle agent of this node gave no answer within {waited} s ({cause}); \
             see the log of its heddle-agent pod. The start is tried again"
        ),
        Unanswered::Refused(cause) => format!(
            "pod {pod} waits for the mesh: the Heddle agent of this node does not take the request ({cause}); \
             plug-in and agent may be of different versions. The start is tried again"
        ),
    };
    CniError::new(code::TRY_AGAIN_LATER, message)
}

#[cfg(test)]
mod tests;
