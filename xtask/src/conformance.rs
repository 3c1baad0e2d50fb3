//! `cargo xtask conformance`: the Gateway API's own suite, on a real cluster with Heddle of this tree in it.

mod balancer;
mod outcome;
mod plan;
mod programs;

use crate::cluster::{Cluster, Layout};
use crate::{image, setup, shell};
use anyhow::{Context, Result, bail, ensure};
use balancer::Balancer;
use outcome::{News, Outcome, Verdict};
use plan::{Choice, Part, Run};
use programs::Programs;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// What runs, and where.
#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    choice: Choice,
    /// Leaves the cluster up; the next run starts from it with what has changed.
    #[arg(long)]
    keep: bool,
    /// A cluster that you have, with Heddle and the Gateway API's CRDs in it. Nothing is installed there.
    #[arg(long, env = "HEDDLE_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Heddle's image, as `cargo xtask image` wrote it; default: one of this tree, made for the run.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// GatewayClass of the Gateways.
    #[arg(long, default_value = "heddle")]
    gateway_class: String,
    /// Answers in a row that must be right. The suite is content with 3, which traffic that is shared by halves, for want
    /// of any route, reaches by chance.
    #[arg(long, value_name = "COUNT", default_value_t = IN_A_ROW, value_parser = clap::value_parser!(u8).range(3..))]
    in_a_row: u8,
    /// Writes reports and results to docs/conformance. A report is of whole parts.
    #[arg(long, conflicts_with = "tests")]
    write_report: bool,
    /// More flags for the suite, after `--`: -skip-tests=A,B, -fail-fast, -debug
    #[arg(last = true)]
    suite: Vec<String>,
}

/// A run that only a suite that hangs comes to.
const LIMIT: &str = "-test.timeout=3h";
/// Checks that go on at a time; they wait more than they work, so that cores are no measure.
const PARALLEL: &str = "-test.parallel=8";
const IN_A_ROW: u8 = 10;
const NAMESPACE: &str = "heddle-system";
const URL: &str = "https://heddle.io";

/// Runs what is chosen; the exit code says whether all of it passed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let outcomes = outcomes(options)?;
    for outcome in &outcomes {
        println!("\n{outcome}");
    }
    let failed: usize = outcomes
        .iter()
        .map(|outcome| outcome.count(Verdict::Failed))
        .sum();
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The folder of the Gateway API's CRDs, standard channel.
pub(crate) fn gateway_crds() -> Result<PathBuf> {
    Ok(Programs::build()?.crds("standard"))
}

/// The mesh part for `cargo xtask test`: how many of its tests passed, and the names of those that did not.
pub(crate) fn mesh() -> Result<(u64, Vec<String>)> {
    let options = Options {
        choice: Choice {
            only: Some(Part::Mesh),
            ..Choice::default()
        },
        keep: false,
        kubeconfig: None,
        image: None,
        gateway_class: String::new(),
        in_a_row: IN_A_ROW,
        write_report: false,
        suite: Vec::new(),
    };
    let outcomes = outcomes(&options)?;
    let tests = || outcomes.iter().flat_map(|outcome| &outcome.tests);
    let passed = tests().filter(|test| test.verdict == Verdict::Passed).count();
    let failed = tests().filter(|test| test.verdict == Verdict::Failed);
    Ok((passed as u64, failed.map(|test| test.name.clone()).collect()))
}

fn outcomes(options: &Options) -> Result<Vec<Outcome>> {
    let mut options = options.clone();
    if options.kubeconfig.is_none() {
        let choice = &mut options.choice;
        choice.usable_address.get_or_insert(balancer::USABLE.to_owned());
        choice
            .unusable_address
            .get_or_insert(balancer::UNUSABLE.to_owned());
    }
    let (options, runs) = (&options, options.choice.runs()?);
    if let Some(kubeconfig) = &options.kubeconfig {
        let stage = Stage {
            place: Place::Users(std::path::absolute(kubeconfig)?),
            programs: Programs::build()?,
        };
        return stage.runs(&runs, options);
    }
    ensure!(
        setup::is_root(),
        "the cluster's machines are namespaces, which need root: run this as root, or with --kubeconfig"
    );
    let image = match &options.image {
        Some(file) => std::path::absolute(file)?,
        None => image::run(&image::Options::for_tests())?,
    };
    let stage = Stage {
        place: Place::Own(Cluster::of_conformance()),
        programs: Programs::build()?,
    };
    let _alone = stage.alone()?;
    let outcomes = stage
        .furnish(&image, options.choice.channel())
        .and_then(|()| stage.runs(&runs, options));
    stage.leave(options.keep, &outcomes)?;
    outcomes
}

enum Place {
    Own(Cluster),
    Users(PathBuf),
}

/// A cluster and what runs on it.
struct Stage {
    place: Place,
    programs: Programs,
}

impl Stage {
    /// A program that reaches API server, nodes and pods: from the control plane's network, if the cluster is ours.
    fn reaching(&self, program: &Path) -> Command {
        match &self.place {
            Place::Own(cluster) => {
                let kubeconfig = cluster.work().join("pki/admin.conf");
                let mut command = cluster.script();
                command.args(["net", "cp", "env"]);
                command.arg(format!("KUBECONFIG={}", kubeconfig.display()));
                command.arg(program);
                command
            }
            Place::Users(kubeconfig) => {
                let mut command = shell::command(&program.display().to_string());
                command.env("KUBECONFIG", kubeconfig);
                command
            }
        }
    }

    /// The suite's namespaces have fixed names: a second run on the cluster would take them from the first.
    fn alone(&self) -> Result<fs::File> {
        let lock = out()?.join("running");
        let file = fs::File::create(&lock).with_context(|| format!("writing {}", lock.display()))?;
        file.try_lock()
            .context("another run of the suite is under way: let it end first")?;
        Ok(file)
    }

    /// Brings the cluster, the CRDs of exactly the suite's version, Heddle and the applications' images.
    fn furnish(&self, heddle: &Path, channel: &str) -> Result<()> {
        let Place::Own(cluster) = &self.place else {
            return Ok(());
        };
        cluster.up(&Layout::default())?;
        let mut images = self.programs.images()?;
        images.push(heddle.to_path_buf());
        cluster.load(&images)?;
        let kubectl = |args: &[&str]| {
            let mut command = cluster.script();
            command.arg("kubectl").args(args);
            command
        };
        // A run that was interrupted leaves its namespaces, with routes in them.
        let left = [
            "delete",
            "namespaces",
            "-l",
            "gateway-conformance",
            "--ignore-not-found",
        ];
        shell::run("removing what an earlier run left", &mut kubectl(&left))?;
        let crds = self.programs.crds(channel);
        let crds = crds.to_str().context("the CRDs' path is not UTF-8")?;
        let what = format!("installing the CRDs, {} {channel}", self.programs.version()?);
        shell::run(
            &what,
            kubectl(&["apply", "--server-side", "-f", crds]).stdout(Stdio::null()),
        )?;
        let wait = [
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=60s",
        ];
        shell::run("waiting for the CRDs", kubectl(&wait).stdout(Stdio::null()))?;
        let mut helm = cluster.script();
        helm.args(["helm", "upgrade", "--install", "heddle"]);
        helm.arg(shell::root().join("charts/heddle"));
        helm.args([
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout=5m",
        ]);
        // The tag says nothing of what is in the image; of pods with this image nothing is replaced.
        let digest = image::archive::digest(&fs::read(heddle)?);
        for pods in ["agent", "controller"] {
            helm.arg("--set-string");
            helm.arg(format!("{pods}.podAnnotations.image={digest}"));
        }
        shell::run("installing Heddle", helm.stdout(Stdio::null()))
    }

    fn leave(&self, keep: bool, outcomes: &Result<Vec<Outcome>>) -> Result<()> {
        let Place::Own(cluster) = &self.place else {
            return Ok(());
        };
        let well = outcomes
            .as_ref()
            .is_ok_and(|all| all.iter().all(|one| one.count(Verdict::Failed) == 0));
        if !well {
            // Reported or not, the failure is known; its explanation goes with the cluster.
            let _ = cluster.report(&out()?.join("cluster"));
        }
        if keep {
            eprintln!(
                "  the cluster stays: KC_WORK={} cargo xtask cluster kubectl get pods -A",
                cluster.work().display()
            );
            return Ok(());
        }
        cluster.down()
    }

    fn runs(&self, runs: &[Run], options: &Options) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for run in runs {
            let _balancer = self.balancer(run.part)?;
            if run.part == Part::Gateway {
                self.await_class(&options.gateway_class);
            }
            let outcome = self.run(run, options)?;
            if options.write_report {
                self.keep_report(&outcome, options.choice.channel())?;
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// What a cluster in a cloud has, and ours has not.
    fn balancer(&self, part: Part) -> Result<Option<Balancer>> {
        let Place::Own(cluster) = &self.place else {
            return Ok(None);
        };
        if part == Part::Mesh {
            return Ok(None);
        }
        let mut route = cluster.script();
        route.args([
            "net",
            "cp",
            "ip",
            "route",
            "replace",
            balancer::RANGE,
            "via",
            balancer::VIA,
        ]);
        shell::run("routing the load balancers' addresses to a node", &mut route)?;
        let program = self.reaching(&self.programs.program("loadbalancer"));
        Balancer::start(program, &out()?.join("loadbalancer.log")).map(Some)
    }

    /// The suite waits for a GatewayClass to be accepted, but not for it to be there, and a fresh controller makes it only
    /// once it leads. If it does not come, the suite says so.
    fn await_class(&self, name: &str) {
        let Place::Own(cluster) = &self.place else {
            return;
        };
        let class = format!("gatewayclass/{name}");
        let mut wait = cluster.script();
        wait.args(["kubectl", "wait", "--for=create", "--timeout=30s", &class]);
        let _ = shell::run("waiting for the GatewayClass", &mut wait);
    }

    fn run(&self, run: &Run, options: &Options) -> Result<Outcome> {
        let start = Instant::now();
        let name = run.part.name();
        eprintln!("▸ conformance, {name} part: {}", run.profiles.join(", "));
        let log = out()?.join(format!("{name}.log"));
        let mut file = fs::File::create(&log).with_context(|| format!("writing {}", log.display()))?;
        let mut child = self
            .command(run, options)?
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the suite")?;
        let mut outcome = Outcome::new(run.part);
        for line in BufReader::new(child.stdout.take().context("the suite's output")?).lines() {
            let line = line?;
            file.write_all(outcome::text(&line).as_bytes())?;
            match outcome.take(&line, start.elapsed()) {
                Some(News::Setup(step)) => eprintln!("  {step}"),
                Some(News::Done(test)) => eprintln!("  {test}"),
                None => {}
            }
        }
        let status = child.wait()?;
        eprintln!(
            "  {:.0} s; all that was said: {}",
            start.elapsed().as_secs_f64(),
            log.display()
        );
        complete(&outcome, run, status.success())?;
        Ok(outcome)
    }

    fn command(&self, run: &Run, options: &Options) -> Result<Command> {
        let mut command = self.reaching(&self.programs.program("test2json"));
        command.arg("-t").arg(self.programs.program("suite"));
        command.args(["-test.v=test2json", LIMIT, PARALLEL]);
        command.args(run.flags());
        match run.part {
            Part::Mesh => command.args(["-gateway-class=", "-namespace-labels=heddle.io/mesh=enabled"]),
            Part::Gateway => command.arg(format!("-gateway-class={}", options.gateway_class)),
        };
        command.arg(format!(
            "-timeout-config-overrides=RequiredConsecutiveSuccesses:{}",
            options.in_a_row
        ));
        for (flag, address) in [
            ("usable", &options.choice.usable_address),
            ("unusable", &options.choice.unusable_address),
        ] {
            if let Some(address) = address {
                command.arg(format!("-{flag}-address={address}"));
            }
        }
        command.args(["-organization=heddle", "-project=heddle", "-contact=@heddle"]);
        command.arg(format!("-url={URL}"));
        command.arg(concat!("-version=v", env!("CARGO_PKG_VERSION")));
        command.arg(format!("-report-output={}", Self::report(run.part)?.display()));
        command.args(&options.suite);
        Ok(command)
    }

    fn report(part: Part) -> Result<PathBuf> {
        Ok(out()?.join(format!("{}.yaml", part.name())))
    }

    /// The report as the suite wrote it, and beside it the results of all tests: a report counts only some.
    fn keep_report(&self, outcome: &Outcome, channel: &str) -> Result<()> {
        let folder = shell::root().join("docs/conformance");
        fs::create_dir_all(&folder)?;
        let name = format!("{}-{channel}-{}", self.programs.version()?, outcome.part.name());
        let report = fs::read(Self::report(outcome.part)?).context("the suite wrote no report")?;
        fs::write(folder.join(format!("{name}.yaml")), report)?;
        let command: Vec<String> = std::env::args().skip(1).collect();
        let results = format!("$ cargo xtask {}\n\n{outcome}\n", command.join(" "));
        fs::write(folder.join(format!("{name}.txt")), results)?;
        eprintln!("✔ wrote docs/conformance/{name}.yaml and .txt");
        Ok(())
    }
}

/// Where runs leave logs and reports.
fn out() -> Result<PathBuf> {
    let out = shell::root().join("target/conformance");
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    Ok(out)
}

/// A run counts only if it ran what it was to run: a suite that gives up early has failed no test.
fn complete(outcome: &Outcome, run: &Run, success: bool) -> Result<()> {
    let last = || {
        outcome
            .own
            .iter()
            .rev()
            .take(12)
            .rev()
            .cloned()
            .collect::<Vec<_>>()
            .join("\n  ")
    };
    let ran = outcome.count(Verdict::Passed) + outcome.count(Verdict::Failed);
    let part = run.part.name();
    if ran == 0 {
        bail!(
            "the {part} part ran no test; the suite said at last:\n  {}",
            last()
        );
    }
    let absent = |name: &&String| {
        let of = |test: &&outcome::Test| test.name == **name && test.verdict != Verdict::Skipped;
        !outcome.tests.iter().any(|test| of(&test))
    };
    if let Some(name) = run.tests.iter().find(absent) {
        bail!(
            "{name} did not run: the suite has no test of that name, or profiles and features leave it out"
        );
    }
    ensure!(
        success || outcome.count(Verdict::Failed) > 0,
        "the {part} part ended before its end; the suite said at last:\n  {}",
        last()
    );
    Ok(())
}
