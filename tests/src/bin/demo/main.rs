//! `cargo xtask demo`: the mesh's main job on two nodes made of network namespaces, with real requests all the while.
//! Each step says what it promises, measures it, and holds or does not.

mod ending;
mod report;
mod stage;
mod traffic;
mod trust;

use anyhow::Result;
use clap::Parser;
use report::Report;
use stage::Stage;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "demo",
    about = "Two Heddle nodes on this machine, with the Weather Forecast application"
)]
struct Cli {
    /// Writes the figures here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Leaves everything running and says how to play with it.
    #[arg(long)]
    keep: bool,
    /// Half the watching time.
    #[arg(long)]
    quick: bool,
    /// Only removes what an earlier `--keep` has left.
    #[arg(long)]
    clean: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("✘ {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    mesh_tests::run::sweep(true)?;
    if cli.clean {
        return Ok(true);
    }
    println!("Heddle on two nodes: making namespaces, starting the Weather Forecast application …");
    let mut stage = Stage::new(cli.quick)?;
    let mut report = Report::new();
    // Without agents there is nothing to look at in the steps that follow.
    let meshed = report.step("a", "the same running pods, before and in the mesh", |s| {
        traffic::enrol(&mut stage, s)
    });
    if !stage.agents.is_empty() {
        if !meshed {
            println!("    (going on: the agents run)");
        }
        report.step("b", "canary: 50/50, then all to v2", |s| {
            traffic::canary(&stage, s)
        });
        report.step("c", "header routing: Chrome to v2, others to v1", |s| {
            traffic::headers(&stage, s)
        });
        report.step("d", "mirroring: v1 answers, v2 gets a copy", |s| {
            traffic::mirror(&mut stage, s)
        });
        report.step("e", "mutual TLS between the nodes", |s| trust::tls(&stage, s));
        report.step("f", "the agent is killed and started again", |s| {
            trust::kill(&mut stage, s)
        });
        report.step("g", "metrics, read by a real Prometheus", |s| {
            ending::metrics(&stage, s)
        });
    }
    if cli.keep {
        keep(&mut stage)?;
    } else {
        report.step("h", "un-enrolled and stopped: nothing is left", |s| {
            ending::leave(stage, s)
        });
    }
    report.summary();
    if let Some(path) = &cli.json {
        std::fs::write(path, format!("{:#}\n", report.json()))?;
    }
    if cli.keep {
        // The handles would kill their processes; they shall stay.
        std::process::exit(i32::from(!report.held()));
    }
    Ok(report.held())
}

fn keep(stage: &mut Stage) -> Result<()> {
    stage.ground.run_mut().keep()?;
    let client = stage.weather.client.netns.name();
    let cgroup = stage.weather.client.place().cgroup.display();
    let podkit = mesh_tests::process::built("podkit")?;
    println!("\n  Left running. To play with it:");
    println!(
        "    sh -c 'echo 0 > {cgroup}/cgroup.procs; ip netns exec {client} {} get --to {} --count 10'",
        podkit.display(),
        mesh_tests::weather::FRONTEND
    );
    for spec in stage.specs()?.iter().take(1) {
        let heddle = mesh_tests::process::built("heddle").unwrap_or_else(|_| "heddle".into());
        println!(
            "    {} status --admin-socket {}",
            heddle.display(),
            spec.admin_socket().display()
        );
    }
    println!(
        "    $EDITOR {}/30-route.yaml",
        stage.weather.config.path().display()
    );
    println!("  and `cargo xtask demo --clean` removes it.");
    // Dropping the stage's handles ends processes and the run; main exits without that.
    Ok(())
}
