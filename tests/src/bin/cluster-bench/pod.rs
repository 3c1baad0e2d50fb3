//! Programs of this machine, run as if a pod's container had started them.

use crate::agent::processes;
use anyhow::{Context, Result};
use mesh_tests::eventually;
use mesh_tests::process::Place;
use mesh_tests::run::cgroup_mount;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Where the containers of the pod with this UID run.
///
/// # Errors
/// No process of it is on this machine.
pub(crate) fn place(uid: &str) -> Result<Place> {
    let mount = cgroup_mount()?;
    // systemd's names of slices have no dashes of their own.
    let names = [uid.to_owned(), uid.replace('-', "_")];
    let what = format!("a process of pod {uid} on this machine");
    eventually(&what, Duration::from_secs(30), || {
        processes().find_map(|process| {
            let proc = format!("/proc/{}", process.0);
            let groups = fs::read_to_string(format!("{proc}/cgroup")).ok()?;
            let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
            let of_pod = names.iter().any(|name| path.contains(name.as_str()));
            let netns = of_pod.then(|| File::open(format!("{proc}/ns/net")).ok())??;
            Some(Place {
                netns: Arc::new(netns),
                cgroup: mount.join(path),
            })
        })
    })
}

/// Starts `podkit` there, with its output in a folder.
///
/// # Errors
/// It is not built, or the pod is gone.
pub(crate) fn podkit(place: &Place, args: &[&str], logs: &Path) -> Result<mesh_tests::process::Proc> {
    let mut command = place.command(mesh_tests::process::built("podkit")?)?;
    command.args(args);
    let verb = args.first().context("podkit needs to be told what to do")?;
    mesh_tests::process::Proc::spawn(&format!("podkit-{verb}"), command, logs)
}
