//! `cargo xtask cluster`: a real Kubernetes cluster on this machine. Brings what `tests/cluster/cluster.sh` needs, and
//! calls it.

mod images;

use crate::{go, setup, shell};
use anyhow::{Context, Result, bail, ensure};
use clap::{Subcommand, ValueEnum};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Builds Kubernetes (minutes, once) and starts a cluster, unless one is up.
    Up(Layout),
    /// Ends the cluster and everything in it; nothing is left.
    Down,
    /// Says which machines are on, and what the API server says of the nodes. Exit code 3: not up.
    Status,
    /// Prints the path of a kubeconfig that works from this machine.
    Kubeconfig,
    /// Runs kubectl of the cluster's own version.
    Kubectl {
        /// kubectl's arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs helm.
    Helm {
        /// helm's arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Imports image archives into every node.
    Load {
        /// Archives, as `cargo xtask image` or `docker save` write them.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Runs a command inside a machine: `cp`, `n1`, `n2`, …
    In {
        /// The machine's name.
        machine: String,
        /// Program and arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Pulls a node's plug.
    Off {
        /// The node's name.
        node: String,
    },
    /// Boots a node that is off.
    On {
        /// The node's name.
        node: String,
    },
    /// Crashes a service of a machine and keeps it down: kube-apiserver, etcd, kubelet, …
    Stop {
        /// The machine's name.
        machine: String,
        /// The service's name.
        service: String,
    },
    /// Lets a stopped service start again.
    Start {
        /// The machine's name.
        machine: String,
        /// The service's name.
        service: String,
    },
    /// Collects logs, pods and events in a folder.
    Report {
        /// The folder.
        dir: PathBuf,
    },
}

/// What a cluster is made of.
#[derive(clap::Args)]
pub(crate) struct Layout {
    /// Worker nodes, 1 to 8.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) nodes: u8,
    /// How kube-proxy programs service addresses.
    #[arg(long, value_enum, default_value_t = Proxy::Nftables)]
    pub(crate) proxy: Proxy,
    /// IPv4 and IPv6 addresses for nodes, pods and services.
    #[arg(long)]
    pub(crate) dual: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            nodes: 2,
            proxy: Proxy::Nftables,
            dual: false,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Proxy {
    Nftables,
    Iptables,
}

/// Runs a task on the cluster of `target/cluster`, or on the one that `kubeconfig` names.
pub(crate) fn run(task: &Task, kubeconfig: Option<&Path>) -> Result<ExitCode> {
    if let Some(file) = kubeconfig {
        return users(task, file);
    }
    ensure!(
        setup::is_root(),
        "the cluster's machines are namespaces, which need root: run this as root"
    );
    let own = Cluster::of_user();
    match task {
        Task::Up(layout) => own.up(layout)?,
        Task::Down => own.down()?,
        Task::Status => return pass(own.script().arg("status")),
        Task::Kubeconfig => {
            eprintln!(
                "  for any client on this machine: export KUBECONFIG=$(cargo xtask cluster kubeconfig)"
            );
            return pass(own.script().arg("kubeconfig"));
        }
        Task::Kubectl { args } => return pass(own.script().arg("kubectl").args(args)),
        Task::Helm { args } => return pass(own.script().arg("helm").args(args)),
        Task::Load { archives } => own.load(archives)?,
        Task::In { machine, command } => return pass(own.script().arg("in").arg(machine).args(command)),
        Task::Off { node } => return pass(own.script().arg("off").arg(node)),
        Task::On { node } => return pass(own.script().arg("on").arg(node)),
        Task::Stop { machine, service } => return pass(own.script().args(["stop", machine, service])),
        Task::Start { machine, service } => return pass(own.script().args(["start", machine, service])),
        Task::Report { dir } => own.report(dir)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A cluster's state directory. Built programs are shared between all of them.
pub(crate) struct Cluster {
    work: PathBuf,
}

impl Cluster {
    /// The one that `cargo xtask cluster` speaks of.
    pub(crate) fn of_user() -> Self {
        let work = std::env::var_os("KC_WORK").map(PathBuf::from);
        Self {
            work: work.unwrap_or_else(|| shell::root().join("target/cluster")),
        }
    }

    /// The one that `cargo xtask test` makes for itself, so that the user's is not disturbed.
    pub(crate) fn of_tests() -> Self {
        Self {
            work: shell::root().join("target/cluster-test"),
        }
    }

    /// The one of `cargo xtask bench --cluster`.
    pub(crate) fn of_bench() -> Self {
        Self {
            work: shell::root().join("target/cluster-bench"),
        }
    }

    /// A command in the network of a machine, with this process's files.
    pub(crate) fn in_network_of(&self, machine: &str, program: &OsStr) -> Command {
        let mut command = self.script();
        command.args(["net", machine]).arg(program);
        command
    }

    /// The one of `cargo xtask conformance`.
    pub(crate) fn of_conformance() -> Self {
        Self {
            work: shell::root().join("target/cluster-conformance"),
        }
    }

    /// Its state directory.
    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// Brings what is missing, builds, and starts it.
    pub(crate) fn up(&self, layout: &Layout) -> Result<()> {
        let start = Instant::now();
        setup::packages(setup::CLUSTER)?;
        let mut build = self.script();
        match go::find() {
            Ok(go) => go.add_to(&mut build),
            // Whether that is what the sources say is for the script to find out.
            Err(_) if built().join("built").exists() => {}
            Err(error) => return Err(error),
        }
        shell::run("building the cluster's programs", build.arg("build"))?;
        images::write(&built())?;
        let mut up = self.script();
        up.args(["up", "--nodes", &layout.nodes.to_string(), "--proxy"]);
        up.arg(match layout.proxy {
            Proxy::Nftables => "nftables",
            Proxy::Iptables => "iptables",
        });
        if layout.dual {
            up.arg("--dual");
        }
        shell::run("starting the cluster", &mut up)?;
        eprintln!(
            "✔ cluster up ({:.0} s in all): cargo xtask cluster kubectl get pods -A",
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Ends it, and removes what carries its name.
    pub(crate) fn down(&self) -> Result<()> {
        shell::run("taking the cluster down", self.script().arg("down"))
    }

    /// Imports image archives into its nodes.
    pub(crate) fn load(&self, archives: &[PathBuf]) -> Result<()> {
        let mut load = self.script();
        load.arg("load");
        for archive in archives {
            load.arg(
                archive
                    .canonicalize()
                    .with_context(|| format!("image archive {}", archive.display()))?,
            );
        }
        shell::run("loading images into the nodes", &mut load)
    }

    /// Collects what a failure may be explained by.
    pub(crate) fn report(&self, dir: &Path) -> Result<()> {
        shell::run("collecting logs", self.script().arg("report").arg(dir))
    }

    /// `cluster.sh` for this cluster, to which arguments are added.
    pub(crate) fn script(&self) -> Command {
        let script = shell::root().join("tests/cluster/cluster.sh");
        let mut command = shell::command(&script.display().to_string());
        command.env("KC_BUILD", built()).env("KC_WORK", &self.work);
        // The user's own folder: `cargo xtask cluster helm install x ./chart` means his chart.
        if let Ok(here) = std::env::current_dir() {
            command.current_dir(here);
        }
        command
    }
}

/// Folder of programs and images, which all clusters of this tree share.
pub(crate) fn built() -> PathBuf {
    let build = std::env::var_os("KC_BUILD").map(PathBuf::from);
    build.unwrap_or_else(|| shell::root().join("target/cluster"))
}

/// The tasks that make sense on a cluster that the user has.
fn users(task: &Task, kubeconfig: &Path) -> Result<ExitCode> {
    ensure!(
        kubeconfig.is_file(),
        "--kubeconfig {}: no such file",
        kubeconfig.display()
    );
    let client = |name: &str, args: &[String]| {
        let own = built().join("bin").join(name);
        let program = if own.exists() {
            own.display().to_string()
        } else {
            name.to_owned()
        };
        ensure!(
            shell::installed(&program) || Path::new(&program).exists(),
            "no {name}: install it, or build it with `cargo xtask cluster up`"
        );
        let mut command = Command::new(program);
        pass(command.args(args).env("KUBECONFIG", kubeconfig))
    };
    match task {
        Task::Kubectl { args } => client("kubectl", args),
        Task::Helm { args } => client("helm", args),
        Task::Status => client("kubectl", &["get", "nodes", "-o", "wide"].map(str::to_owned)),
        Task::Kubeconfig => {
            println!("{}", kubeconfig.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Load { .. } => bail!(
            "images reach a cluster of yours its own way: `kind load image-archive FILE`, `k3s ctr images import FILE`, or a registry"
        ),
        _ => bail!(
            "this is for the cluster that xtask makes; --kubeconfig (HEDDLE_KUBECONFIG) names one that you have"
        ),
    }
}

/// Runs in place of this program: its output is the output, its exit code the exit code.
fn pass(command: &mut Command) -> Result<ExitCode> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
