//! `cargo xtask bench --cluster`: what Heddle costs on a real Kubernetes API server with many objects, beside its
//! goals. The API server, the nodes and the load share this machine's cores: times are upper bounds.

mod agent;
mod api;
mod change;
mod enrol;
mod load;
mod objects;
mod pod;
mod routes;
mod server;
mod starts;
mod table;
mod watchers;

use agent::Agent;
use anyhow::{Context, Result};
use api::Api;
use clap::Parser;
use mesh_tests::cluster::Cluster;
use mesh_tests::release::Release;
use objects::Mesh;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use table::Table;

#[derive(Parser)]
#[command(
    name = "cluster-bench",
    about = "Measures Heddle on a Kubernetes cluster of many objects"
)]
struct Cli {
    /// Services, with one EndpointSlice and one WorkloadTemplate each.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(200..=60_000))]
    services: u32,
    /// Endpoints of all services together.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(200..=300_000))]
    endpoints: u32,
    /// Changes that are tried a second in the storm.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    storm_rate: u32,
    /// Length of the storm.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    storm_seconds: u64,
    /// Running pods of the node whose namespace is labelled.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pods: u32,
    /// A tenth of the objects, and shorter rounds.
    #[arg(long)]
    quick: bool,
    /// Writes one JSON object per line here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fails if a goal is missed, or by far where noise is in the figure.
    #[arg(long)]
    strict: bool,
    /// Leaves what was made: the cluster goes as a whole.
    #[arg(long)]
    leave: bool,
    /// Only these parts (enrol starts ready change storm server), or `routes`, which is for itself.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<String>,
    /// The CRD of HTTPRoute, which is installed for `routes`.
    #[arg(long)]
    http_route_crd: Option<PathBuf>,
}

/// How much of everything.
struct Size {
    mesh: Mesh,
    storm_rate: u32,
    storm: Duration,
    pods: u32,
    /// Repetitions of what is repeated.
    rounds: u32,
}

impl Cli {
    fn size(&self) -> Size {
        let part = if self.quick { 10 } else { 1 };
        Size {
            mesh: Mesh::new(self.services / part, self.endpoints / part),
            storm_rate: self.storm_rate,
            storm: Duration::from_secs(if self.quick { 10 } else { self.storm_seconds }),
            pods: if self.quick { self.pods.min(10) } else { self.pods },
            rounds: if self.quick { 2 } else { 3 },
        }
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("✘ not every goal was held");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("✘ {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether what was measured is as it must be.
fn run(cli: &Cli) -> Result<bool> {
    let start = Instant::now();
    let size = cli.size();
    let cluster = Cluster::current()?;
    let api = Api::connect(cluster.kubeconfig())?;
    let step = |what: &str| eprintln!("▸ [{:3} s] {what}", start.elapsed().as_secs());
    let mut table = Table::default();

    let node = cluster
        .ready_nodes()?
        .into_iter()
        .next()
        .context("no node is ready")?;
    let outside = cli.wants("starts").then(|| {
        step("starting pods without Heddle");
        starts::start(&cluster, &api, &node, &size, false)
    });
    step("installing Heddle");
    let release = install(&cluster)?;
    table.heading("pods of a node");
    if let Some(outside) = outside {
        step("starting pods in the mesh");
        let inside = starts::start(&cluster, &api, &node, &size, true);
        let first = starts::first_of_account(&cluster, &api, &node, &size);
        starts::compare(outside, inside, first, &mut table);
    }
    if cli.wants("enrol") {
        step("labelling a namespace of running pods");
        enrol::measure(&cluster, &api, &release, &node, &size, &mut table);
    }
    // It would remove templates of pods that are not there.
    let scale = ["scale", "deployment/heddle-controller", "--replicas=0"];
    cluster.kubectl(&[&["-n", &release.space.name][..], &scale].concat())?;
    let agent = Agent::find(&node, &release.space.name)?;
    table.heading(&format!(
        "{} services, {} endpoints, {} WorkloadTemplates",
        size.mesh.services,
        size.mesh.endpoints(),
        size.mesh.services
    ));
    step("loading objects");
    let loaded = load::load(&api, &size.mesh)?;
    table.fact("objects made", f64::from(loaded.objects), "");
    table.fact("objects made a second", loaded.rate, "1/s");
    let agent = if cli.wants("ready") {
        step("starting the agent anew");
        let agent = server::crash(&api, agent, &size, &mut table)?;
        server::replace(&cluster, &release, agent, &mut table)?
    } else {
        agent
    };
    if cli.wants("change") {
        step("changing one endpoint at a time");
        change::one_by_one(&api, &agent, &size, &mut table);
    }
    if cli.wants("storm") {
        step("a storm of changes");
        change::storm(&api, &agent, &size, &mut table);
    }
    if cli.wants("server") {
        step("what watchers cost the API server");
        watchers::measure(&api, &size, &mut table);
    }
    if cli.parts.iter().any(|part| part == "routes") {
        step("changing routes");
        let crd = cli.http_route_crd.as_deref();
        routes::measure(&cluster, &api, &agent, &node, &size, crd, &mut table);
    } else {
        agent.memory(&mut table, "after all of it");
    }
    table.fact("this run", start.elapsed().as_secs_f64(), "s");
    table.print();
    if let Some(path) = &cli.json {
        std::fs::write(path, table.json_lines()).with_context(|| path.display().to_string())?;
    }
    if cli.leave {
        // Its end would uninstall it.
        std::mem::forget(release);
    } else {
        load::unload(&api, &size.mesh);
    }
    Ok(!cli.strict || table.held())
}

/// The chart, without access log lines for what the bench does.
fn install(cluster: &Cluster) -> Result<Release> {
    let release = Release::install(cluster, &["--set", "meshConfig.accessLogFile="])?;
    for workload in ["daemonset/heddle-agent", "deployment/heddle-controller"] {
        release.space.rolled_out(workload, Duration::from_secs(180))?;
    }
    Ok(release)
}
