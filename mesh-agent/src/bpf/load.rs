//! Loads the object over the pinned maps.

use super::{BpfError, attach, cgroup, maps::Maps, records::Records, servers::Servers};
use aya::programs::{CgroupSockAddr, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use mesh_common::maps::{MAPS, MapSpec};
use mesh_core::datapath::Limits;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, setrlimit};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf"));
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Where the data path lives.
#[derive(Clone, Debug)]
pub struct BpfConfig {
    /// Directory of the pins, below a bpf file system.
    pub bpf_dir: PathBuf,
    /// cgroup v2 directory that holds the pods.
    pub cgroup: PathBuf,
    /// Directory for the lock file.
    pub state_dir: PathBuf,
    /// Sizes of maps.
    pub limits: Limits,
}

/// The loaded programs and their maps.
pub struct Datapath {
    pub(super) config: BpfConfig,
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    records: Arc<Records>,
    servers: Arc<Servers>,
    // Dropped in this order: what is unwanted goes while nobody else may come.
    unproven: Unproven,
    locks: Option<[Flock<File>; 2]>,
}

/// Removes what a first start has pinned, unless that start succeeds. What an earlier agent pinned stays whatever
/// happens: pods may be captured by it.
struct Unproven {
    dir: Option<PathBuf>,
}

impl Drop for Unproven {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take()
            && let Err(error) = super::remove_residue(&dir)
        {
            tracing::warn!(dir = %dir.display(), %error, "cannot remove the pins of a start that failed");
        }
    }
}

/// The hooks on the pods' cgroup: program name and pin name.
pub(super) const CGROUP_HOOKS: [&str; 8] = [
    "heddle_connect4",
    "heddle_connect6",
    "heddle_peer4",
    "heddle_peer6",
    "heddle_send4",
    "heddle_send6",
    "heddle_receive4",
    "heddle_receive6",
];
pub(super) const SOCK_OPS: &str = "heddle_sockops";
pub(super) const STEER: &str = "heddle_steer";

impl Datapath {
    /// Loads the programs, attaches them to the cgroup or replaces the ones that an earlier agent left.
    ///
    /// # Errors
    /// What is missing, and where. Nothing that was attached before is taken away by a failure.
    pub fn load(config: BpfConfig) -> Result<Self, BpfError> {
        if OBJECT.is_empty() {
            return Err(BpfError::NoObject);
        }
        cgroup::check(&config.cgroup)?;
        let lock = lock(&config.state_dir)?;
        // Linux before 5.11 charges maps to this limit; later ones ignore it.
        if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, u64::MAX, u64::MAX) {
            tracing::debug!(%error, "cannot raise RLIMIT_MEMLOCK");
        }
        let first = !config.bpf_dir.join("links").exists();
        prepare_dirs(&config.bpf_dir)?;
        let pins = lock_pins(&config.bpf_dir)?;
        let unproven = Unproven {
            dir: first.then(|| config.bpf_dir.clone()),
        };
        let mut ebpf = load_object(Some(&config))?;
        load_programs(&mut ebpf)?;
        let records = Arc::new(Records::open(&mut ebpf)?);
        let servers = Arc::new(Servers::open(&mut ebpf)?);
        let maps = Maps::open(&mut ebpf)?;
        let mut this = Self {
            config,
            ebpf,
            maps,
            records,
            servers,
            unproven,
            locks: Some([lock, pins]),
        };
        cgroup::join(&this.config.cgroup)?;
        attach::attach_cgroup_hooks(&mut this)?;
        this.verify_effect()?;
        Ok(this)
    }

    /// The start has succeeded: from here on the pins outlive the agent.
    pub fn keep(&mut self) {
        self.unproven.dir = None;
        // Only now: a start that failed must leave an agent of another layout what it needs.
        sweep_old_layouts(&self.config);
    }

    /// Lets another agent have the data path. This one must not change it any more.
    pub fn release_locks(&mut self) {
        self.locks = None;
    }

    /// Takes the data path back from an agent that has died: its programs may be of another version, and its listeners
    /// are gone.
    ///
    /// # Errors
    /// Another agent holds it by now, or the kernel refuses the programs.
    pub fn take_back(&mut self) -> Result<(), BpfError> {
        let locks = [lock(&self.config.state_dir)?, lock_pins(&self.config.bpf_dir)?];
        attach::attach_cgroup_hooks(self)?;
        self.locks = Some(locks);
        Ok(())
    }

    /// Access to socket records, shared with the proxy.
    #[must_use]
    pub fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records)
    }

    /// The name servers that pods ask.
    #[must_use]
    pub fn servers(&self) -> Arc<Servers> {
        Arc::clone(&self.servers)
    }

    /// Where the pins are.
    #[must_use]
    pub fn config(&self) -> &BpfConfig {
        &self.config
    }

    /// Verifier statistics per program: name, verified instructions, translated bytes.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn verifier_statistics() -> Result<Vec<(String, Option<u32>, u32)>, BpfError> {
        if OBJECT.is_empty() {
            return Err(BpfError::NoObject);
        }
        let mut ebpf = load_object(None)?;
        load_programs(&mut ebpf)?;
        let mut rows = Vec::new();
        for (name, program) in ebpf.programs() {
            let info = program.info().map_err(|source| BpfError::Program {
                name: "(info)",
                source,
            })?;
            rows.push((
                name.to_owned(),
                info.verified_instruction_count(),
                info.size_translated().unwrap_or(0),
            ));
        }
        rows.sort();
        Ok(rows)
    }
}

fn lock(dir: &Path) -> Result<Flock<File>, BpfError> {
    fs::create_dir_all(dir).map_err(BpfError::io(format!("create {}", dir.display())))?;
    let path = dir.join("agent.lock");
    let file = File::create(&path).map_err(BpfError::io(format!("create {}", path.display())))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| BpfError::Locked(path))
}

/// Whether an agent runs on this state directory.
#[must_use]
pub fn agent_is_locked(state_dir: &Path) -> bool {
    let Ok(file) = File::open(state_dir.join("agent.lock")) else {
        return false;
    };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
}

/// Agents with different state directories must not meet on one data path either.
pub(super) fn lock_pins(dir: &Path) -> Result<Flock<File>, BpfError> {
    let file = File::open(dir).map_err(BpfError::io(format!("open {}", dir.display())))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| BpfError::Locked(dir.to_owned()))
}

/// Whether a path is on a bpf file system.
pub(super) fn on_bpffs(path: &Path) -> Result<(), BpfError> {
    let stat = nix::sys::statfs::statfs(path)
        .map_err(|error| BpfError::io(format!("statfs {}", path.display()))(error.into()))?;
    if stat.filesystem_type().0 == BPF_FS_MAGIC {
        Ok(())
    } else {
        Err(BpfError::NotBpffs(path.to_owned()))
    }
}

/// The usual mount point of the bpf file system.
pub(super) const BPF_FS: &str = "/sys/fs/bpf";

/// Mounts the bpf file system where systemd would, on hosts that have no systemd. In a container it is the host's mount,
/// given as a hostPath, and nothing is done.
fn mount_bpffs(dir: &Path) -> Result<(), BpfError> {
    let mount_point = Path::new(BPF_FS);
    if !dir.starts_with(mount_point) || on_bpffs(mount_point).is_ok() {
        return Ok(());
    }
    tracing::info!("mounting the bpf file system on {BPF_FS}");
    let none: Option<&str> = None;
    nix::mount::mount(
        Some("bpf"),
        mount_point,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        none,
    )
    .map_err(|_| BpfError::NotBpffs(mount_point.to_owned()))
}

fn prepare_dirs(dir: &Path) -> Result<(), BpfError> {
    mount_bpffs(dir)?;
    on_bpffs(dir.parent().unwrap_or(dir))?;
    for sub in ["maps", "links", "netns"] {
        let path = dir.join(sub);
        fs::create_dir_all(&path).map_err(BpfError::io(format!("create {}", path.display())))?;
    }
    let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(dir, only_owner).map_err(BpfError::io(format!("chmod {}", dir.display())))
}

/// The pin of a map: its layout number is part of the name, and its size if that was chosen, as a map keeps the one that
/// it was made with. bpffs refuses names with a dot.
fn map_pin(config: &BpfConfig, map: &MapSpec) -> PathBuf {
    let name = match chosen_size(map.name, config.limits) {
        Some(size) => format!("{}-v{}-{size}", map.name, map.layout),
        None => format!("{}-v{}", map.name, map.layout),
    };
    config.bpf_dir.join("maps").join(name)
}

/// A map's size, if it is not the one of the object.
fn chosen_size(map: &str, limits: Limits) -> Option<u32> {
    let usual = Limits::default();
    match map {
        "SERVICES" => Some(limits.services).filter(|size| *size != usual.services),
        "BACKENDS" => Some(limits.backends).filter(|size| *size != usual.backends),
        _ => None,
    }
}

/// The object with its maps pinned as the settings say, or for a look only, with maps that go with it.
pub(super) fn load_object(config: Option<&BpfConfig>) -> Result<Ebpf, BpfError> {
    let mut loader = EbpfLoader::new();
    // The kernel's types, parsed by `new`, are 20 MiB, and only CO-RE relocations need them: there are none here.
    loader.btf(None);
    loader.verifier_log_level(VerifierLogLevel::STATS);
    if let Some(config) = config {
        for map in MAPS {
            loader.map_pin_path(map.name, map_pin(config, &map));
            if let Some(size) = chosen_size(map.name, config.limits) {
                loader.map_max_entries(map.name, size);
            }
        }
    }
    Ok(loader.load(OBJECT)?)
}

pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    for name in CGROUP_HOOKS {
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        program
            .load()
            .map_err(|source| BpfError::Program { name, source })?;
    }
    let program_sockops: &mut SockOps = program(ebpf, SOCK_OPS)?;
    program_sockops.load().map_err(|source| BpfError::Program {
        name: SOCK_OPS,
        source,
    })?;
    let steer: &mut SkLookup = program(ebpf, STEER)?;
    steer
        .load()
        .map_err(|source| BpfError::Program { name: STEER, source })
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(BpfError::Missing(name))?
        .try_into()
        .map_err(|source| BpfError::Program { name, source })
}

/// Removes pins of maps whose layout is not the one loaded: the programs that used them have just been replaced or
/// will be, and config maps are rebuilt from the plan.
fn sweep_old_layouts(config: &BpfConfig) {
    let Ok(entries) = fs::read_dir(config.bpf_dir.join("maps")) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let current = MAPS
            .iter()
            .any(|map| map_pin(config, map).file_name() == Some(&name));
        if !current {
            match fs::remove_file(entry.path()) {
                Ok(()) => {
                    tracing::info!(pin = %entry.path().display(), "removed a map pin of another layout")
                }
                Err(error) => {
                    tracing::warn!(pin = %entry.path().display(), %error, "cannot remove an old map pin")
                }
            }
        }
    }
}
