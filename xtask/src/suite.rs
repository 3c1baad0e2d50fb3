//! `cargo xtask test`: every check and test, in the order of what is cheapest to know, and one line at the end.

use crate::cluster::{Cluster, Layout};
use crate::{bench, bpf, conformance, image, setup, shell};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// Which of the tests to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Skips the suites on a Kubernetes cluster, the Gateway API's among them, for quick turns.
    #[arg(long)]
    no_cluster: bool,
    /// Runs those suites and nothing else.
    #[arg(long, conflicts_with = "no_cluster")]
    only_cluster: bool,
    /// Runs those suites on a cluster that you have, with Heddle's image loaded, in place of one made for them.
    #[arg(long, env = "HEDDLE_KUBECONFIG", conflicts_with = "no_cluster")]
    kubeconfig: Option<PathBuf>,
}

/// Feature of the suites that need a cluster.
const CLUSTER: &str = "mesh-tests/cluster";

#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    broken: Vec<String>,
}

/// Builds the agent, podkit, the demo's programs and applications.
pub(crate) fn build_release() -> Result<()> {
    let mut cargo = shell::command("cargo");
    cargo.args([
        "build",
        "--release",
        "--bins",
        "-p",
        "mesh-agent",
        "-p",
        "mesh-tests",
        "-p",
        "weather-apps",
    ]);
    shell::run("building the agent and the test programs", &mut cargo)
}

/// Builds the agent alone, in another profile.
pub(crate) fn build_agent(profile: &str) -> Result<()> {
    let mut cargo = shell::command("cargo");
    cargo.args(["build", "--profile", profile, "--bins", "-p", "mesh-agent"]);
    shell::run(
        &format!("building the agent (profile {profile}, minutes)"),
        &mut cargo,
    )
}

/// Runs all of it; a stage that fails does not keep the next from being known.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut tally = Tally::default();
    setup::run()?;
    if options.only_cluster {
        bpf::build()?;
    } else {
        off_cluster(&mut tally)?;
    }
    if options.no_cluster {
        eprintln!("✘ NOT RUN: the suites on a cluster (--no-cluster)");
    } else {
        on_cluster(&mut tally, options)?;
    }
    for broken in &tally.broken {
        eprintln!("✘ {broken}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Checks, unit tests, and the suites that need this machine only.
fn off_cluster(tally: &mut Tally) -> Result<()> {
    tally.check("cargo fmt --check", &mut cargo(&["fmt", "--all", "--check"]));
    bpf::build()?;
    build_release()?;
    bpf::verify()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--features", CLUSTER];
    tally.check("cargo clippy", cargo(&clippy).args(["--", "-D", "warnings"]));
    tally.check("cargo deny check", &mut deny()?);
    // With the profile of the agent above: dependencies are compiled once.
    tally.tests(
        "unit tests",
        &mut cargo(&[
            "test",
            "--release",
            "--workspace",
            "--lib",
            "--bins",
            "--no-fail-fast",
        ]),
    )?;
    if setup::is_root() {
        let mut suites = cargo(&[
            "test",
            "--release",
            "-p",
            "mesh-tests",
            "--test",
            "*",
            "--no-fail-fast",
        ]);
        // Each test has nodes of its own, but all share the machine's cores and some measure time.
        suites.args(["--", "--test-threads=2"]);
        tally.tests("suites on network namespaces", &mut suites)?;
    } else if std::env::var_os("CI").is_some() {
        tally.fail("suites on network namespaces need root, and CI has none");
    } else {
        eprintln!("✘ NOT RUN: the suites on network namespaces need root: run `sudo -E cargo xtask test`");
    }
    Ok(())
}

/// Suites on a Kubernetes cluster: the user's, or one of this run's own, which ends with it.
fn on_cluster(tally: &mut Tally, options: &Options) -> Result<()> {
    let what = "suites on a cluster";
    // All of them share the cluster, and some take parts of it away: one after the other.
    let mut suites = cargo(&["test", "--release", "-p", "mesh-tests", "--features", CLUSTER]);
    // The chart's own tests want the helm that the cluster brings.
    suites.args(["--test", "cluster_*", "--test", "chart", "--no-fail-fast"]);
    suites.args(["--", "--test-threads=1"]);
    suites.env("HEDDLE_IMAGE", image::reference());
    match conformance::gateway_crds() {
        Ok(folder) => _ = suites.env("HEDDLE_GATEWAY_CRDS", folder),
        Err(error) => tally.fail(&format!("the Gateway API's CRDs: {error:#}")),
    }
    if let Some(kubeconfig) = &options.kubeconfig {
        return tally.tests(
            what,
            suites.env("HEDDLE_KUBECONFIG", std::path::absolute(kubeconfig)?),
        );
    }
    if !setup::is_root() {
        if std::env::var_os("CI").is_some() {
            tally.fail("suites on a cluster need root, and CI has none");
        } else {
            eprintln!("✘ NOT RUN: the suites on a cluster need root: run `sudo -E cargo xtask test`");
        }
        return Ok(());
    }
    let cluster = Cluster::of_tests();
    let before = tally.failed;
    let ready = image::write(&image::Options::for_tests()).and_then(|image| {
        cluster.down()?;
        cluster.up(&Layout::default())?;
        cluster.load(&[image])
    });
    let ran = match ready {
        Ok(()) => tally.tests(what, suites.env("KC_WORK", cluster.work())),
        Err(error) => {
            tally.fail(&format!("{what}: {error:#}"));
            Ok(())
        }
    };
    if tally.failed > before {
        // Reported or not, the failure is known; its explanation goes with the cluster.
        let _ = cluster.report(&shell::root().join("target/cluster-test-report"));
    }
    if let Err(error) = cluster.down() {
        tally.fail(&format!("{error:#}"));
    }
    ran?;
    conformance(tally);
    tally.count(bench::routes::held());
    Ok(())
}

/// The mesh part of the Gateway API's suite, on a cluster of its own.
fn conformance(tally: &mut Tally) {
    match conformance::mesh() {
        Ok((passed, failed)) => {
            tally.passed += passed;
            for name in failed {
                tally.fail(&format!("conformance: {name}"));
            }
        }
        Err(error) => tally.fail(&format!("conformance: {error:#}")),
    }
}

fn cargo(args: &[&str]) -> Command {
    let mut command = shell::command("cargo");
    command.args(args);
    command
}

/// Licences, sources and bans need no network; advisories need their database, which not every machine can have.
fn deny() -> Result<Command> {
    let tool = setup::tools().join("bin/cargo-deny");
    if !tool.exists() && !shell::installed("cargo-deny") {
        setup::tool("cargo-deny", &[])?;
    }
    let program = if tool.exists() {
        tool.display().to_string()
    } else {
        "cargo-deny".to_owned()
    };
    let fetched = shell::quiet(shell::command(&program).args(["fetch", "db"])).is_some();
    let mut command = shell::command(&program);
    command.args(["check", "licenses", "bans", "sources"]);
    if fetched {
        command.arg("advisories");
    } else {
        eprintln!("  cargo deny: the advisory database cannot be had here; advisories are NOT checked");
    }
    Ok(command)
}

impl Tally {
    fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.broken.push(what.to_owned());
    }

    /// What passes or fails as a whole.
    fn count(&mut self, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => self.fail(&format!("{error:#}")),
        }
    }

    /// A program that passes or fails as a whole.
    fn check(&mut self, what: &str, command: &mut Command) {
        self.count(shell::run(what, command));
    }

    /// A run of cargo test, whose totals are summed from its own lines as they come.
    fn tests(&mut self, what: &str, command: &mut Command) -> Result<()> {
        eprintln!("▸ {what}");
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| what.to_owned())?;
        let before = self.failed;
        for line in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
            let line = line?;
            println!("{line}");
            if let Some((passed, failed)) = totals(&line) {
                self.passed += passed;
                self.failed += failed;
            } else if let Some(name) = line
                .strip_prefix("test ")
                .and_then(|l| l.strip_suffix(" ... FAILED"))
            {
                self.broken.push(name.to_owned());
            }
        }
        // A suite that did not build or that died reports no totals at all.
        if !child.wait()?.success() && self.failed == before {
            self.fail(&format!("{what}: did not build or ended without totals"));
        }
        Ok(())
    }
}

/// `test result: ok. 5 passed; 0 failed; …`
fn totals(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let count = |what: &str| {
        let part = rest
            .split([';', '.'])
            .map(str::trim)
            .find(|part| part.ends_with(what))?;
        part.split(' ').next()?.parse().ok()
    };
    Some((count(" passed")?, count(" failed")?))
}

#[cfg(test)]
mod tests {
    use super::totals;

    #[test]
    fn totals_are_read_from_good_and_bad_results_and_nothing_else() {
        assert_eq!(
            totals("test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured"),
            Some((5, 0))
        );
        assert_eq!(
            totals("test result: FAILED. 12 passed; 3 failed; 0 ignored"),
            Some((12, 3))
        );
        assert_eq!(totals("test a_test ... ok"), None);
    }
}
