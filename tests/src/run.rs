//! One run: a name that everything it makes carries, and the removal of all of that.

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Prefix of every namespace, cgroup, pin and folder that a run makes.
const PREFIX: &str = "hd-";
const RUNS: &str = "/run/heddle-tests";
const KEEP: &str = "keep";

/// A run. Dropping it removes all that carries its name.
#[derive(Debug)]
pub struct Run {
    name: String,
    cgroups: PathBuf,
    lock: Option<Flock<File>>,
    kept: bool,
}

impl Run {
    /// Removes what killed runs have left, and starts a new one.
    ///
    /// # Errors
    /// Not root, or no cgroup2 is mounted.
    pub fn start() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces need root: run this as root"
        );
        sweep(false)?;
        let _starting = starting()?;
        let mut random = [0u8; 3];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let name = format!("{PREFIX}{:02x}{:02x}{:02x}", random[0], random[1], random[2]);
        let dir = Path::new(RUNS).join(&name);
        fs::create_dir_all(dir.join("logs")).with_context(|| format!("creating {}", dir.display()))?;
        let lock = File::create(dir.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .context("locking a new run")?;
        let cgroups = cgroup_mount()?.join(format!("heddle-{name}"));
        fs::create_dir(&cgroups).with_context(|| format!("creating cgroup {}", cgroups.display()))?;
        Ok(Self {
            name,
            cgroups,
            lock: Some(lock),
            kept: false,
        })
    }

    /// Its name, such as `hd-1f03a2`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder of its files.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new(RUNS).join(&self.name)
    }

    /// Folder of its logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir().join("logs")
    }

    /// Its cgroup; those of its pods are below.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroups
    }

    /// Leaves everything in place when dropped, until a [`sweep`] that includes kept runs.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub fn keep(&mut self) -> Result<()> {
        fs::write(self.dir().join(KEEP), "")?;
        self.kept = true;
        Ok(())
    }

    /// Ends the run now and says what of it is still there; empty is as it must be.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn finish(mut self) -> Result<Vec<String>> {
        self.kept = true;
        remove(&self.name)?;
        Ok(leftovers(&self.name))
    }

    /// On SIGINT, SIGTERM and SIGHUP: removes this run and exits with 130.
    ///
    /// # Errors
    /// Signal handlers cannot be installed.
    pub fn remove_on_signal(&self) -> Result<()> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let name = self.name.clone();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                eprintln!("interrupted: removing {name}");
                if let Err(error) = remove(&name) {
                    eprintln!("{error:#}");
                }
                std::process::exit(130);
            }
        });
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // The lock is held to the end: a sweep must not remove the same things at the same time.
        if !self.kept
            && let Err(error) = remove(&self.name)
        {
            eprintln!("removing {}: {error:#}", self.name);
        }
        self.lock.take();
    }
}

/// Removes what earlier runs that no longer hold their lock have left, by name prefix; runs that were told to stay
/// only when `kept`.
///
/// # Errors
/// Something could not be removed.
pub fn sweep(kept: bool) -> Result<()> {
    let _starting = starting()?;
    for name in entries(Path::new(RUNS)) {
        let dir = Path::new(RUNS).join(&name);
        if !name.starts_with(PREFIX) || (!kept && dir.join(KEEP).exists()) {
            continue;
        }
        let free = File::open(dir.join("lock"))
            .map(|lock| Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno));
        if !matches!(free, Ok(Err(_))) {
            remove(&name)?;
        }
    }
    Ok(())
}

/// Held while runs are made and swept, so that a run without its own lock yet is not taken for a dead one.
fn starting() -> Result<Flock<File>> {
    fs::create_dir_all(RUNS).context("creating the folder of runs")?;
    let file = File::create(Path::new(RUNS).join("starting.lock"))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context("locking the folder of runs")
}

/// What carries a run's name: cgroups, namespaces, BPF pins, folders.
#[must_use]
pub fn leftovers(run: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(mount) = cgroup_mount() {
        found.extend(named(&mount, &format!("heddle-{run}")));
    }
    found.extend(named(Path::new("/run/netns"), run));
    found.extend(named(Path::new("/sys/fs/bpf"), &format!("heddle-{run}")));
    found.extend(named(Path::new("/run/heddle"), run));
    found.extend(named(Path::new(RUNS), run));
    found
}

fn remove(run: &str) -> Result<()> {
    // The thread that waits for signals and the one that drops the run must not remove at the same time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cgroup = cgroup_mount()?.join(format!("heddle-{run}"));
    if cgroup.exists() {
        remove_cgroup(&cgroup)?;
    }
    for pins in named(Path::new("/sys/fs/bpf"), &format!("heddle-{run}")) {
        remove_tree(Path::new(&pins))?;
    }
    for netns in named(Path::new("/run/netns"), run) {
        let name = netns.rsplit('/').next().unwrap_or_default().to_owned();
        let status = Command::new("ip")
            .args(["netns", "del", &name])
            .status()
            .context("running ip")?;
        ensure!(status.success(), "ip netns del {name} failed");
    }
    for dir in named(Path::new("/run/heddle"), run) {
        remove_tree(Path::new(&dir))?;
    }
    remove_tree(&Path::new(RUNS).join(run))
}

/// Kills what is in a cgroup and removes it and those below it. Killed processes take a moment to leave, and an
/// interrupted run may still be starting some.
fn remove_cgroup(dir: &Path) -> Result<()> {
    fs::write(dir.join("cgroup.kill"), "1").with_context(|| format!("killing {}", dir.display()))?;
    for child in fs::read_dir(dir)?.flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&child.path())?;
        }
    }
    let start = Instant::now();
    while let Err(error) = fs::remove_dir(dir) {
        if error.kind() == std::io::ErrorKind::NotFound {
            break;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(10),
            "cgroup {}: {error}",
            dir.display()
        );
        std::thread::sleep(Duration::from_millis(10));
        // Errors show as a cgroup that stays.
        let _ = fs::write(dir.join("cgroup.kill"), "1");
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Entries of `dir` that are `name` or start with `name-`.
fn named(dir: &Path, name: &str) -> Vec<String> {
    entries(dir)
        .into_iter()
        .filter(|entry| {
            entry
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
        .map(|entry| dir.join(entry).display().to_string())
        .collect()
}

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or below it beside version 1.
///
/// # Errors
/// Nowhere.
pub fn cgroup_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .context("no cgroup2 is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup`")
}
