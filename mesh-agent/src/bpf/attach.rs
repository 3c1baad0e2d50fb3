//! Attaches programs by pinned links, or replaces the program of a link that an earlier agent pinned.

use super::load::{CGROUP_HOOKS, Datapath, SOCK_OPS, STEER, program};
use super::{BpfError, sys};
use crate::sys::NetNs;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SkLookup, SockOps};
use mesh_common::verdict::Reason;
use socket2::{Domain, Socket, Type};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A pod's `sk_lookup` link. It lives on as a pin when this is dropped; [`Datapath::detach_netns`] ends it.
#[derive(Debug)]
pub struct NetnsLink {
    pin: PathBuf,
}

/// Outcome of looking at an earlier agent's pin.
enum Adopted {
    Yes,
    No,
}

pub(super) fn attach_cgroup_hooks(datapath: &mut Datapath) -> Result<(), BpfError> {
    let path = datapath.config.cgroup.clone();
    let cgroup = File::open(&path).map_err(BpfError::io(format!("open cgroup {}", path.display())))?;
    let target = cgroup.metadata().map_err(BpfError::io("stat cgroup"))?.ino();
    for name in CGROUP_HOOKS {
        let pin = datapath.config.bpf_dir.join("links").join(name);
        let hook: &mut CgroupSockAddr = program(&mut datapath.ebpf, name)?;
        let fd = hook.fd().map_err(|source| BpfError::Program { name, source })?;
        if let Adopted::Yes = adopt(&pin, target, fd.as_fd())? {
            continue;
        }
        let fail = |source| BpfError::Program { name, source };
        // Links always coexist with others' programs; any other mode is EINVAL for a link.
        let id = hook.attach(&cgroup, CgroupAttachMode::Single).map_err(fail)?;
        let link: FdLink = hook
            .take_link(id)
            .map_err(fail)?
            .try_into()
            .map_err(|_| BpfError::Missing(name))?;
        pin_link(link, &pin)?;
    }
    let pin = datapath.config.bpf_dir.join("links").join(SOCK_OPS);
    let hook: &mut SockOps = program(&mut datapath.ebpf, SOCK_OPS)?;
    let fail = |source| BpfError::Program {
        name: SOCK_OPS,
        source,
    };
    let fd = hook.fd().map_err(fail)?;
    if let Adopted::No = adopt(&pin, target, fd.as_fd())? {
        let id = hook.attach(&cgroup, CgroupAttachMode::Single).map_err(fail)?;
        let link: FdLink = hook
            .take_link(id)
            .map_err(fail)?
            .try_into()
            .map_err(|_| BpfError::Missing(SOCK_OPS))?;
        pin_link(link, &pin)?;
    }
    Ok(())
}

impl Datapath {
    /// Steers arrivals in a pod's network namespace, or takes over the link of an earlier agent.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn attach_netns(&mut self, netns: &NetNs) -> Result<NetnsLink, BpfError> {
        let inode = netns.inode().map_err(BpfError::io("stat network namespace"))?;
        let pin = self.config.bpf_dir.join("netns").join(inode.to_string());
        let hook: &mut SkLookup = program(&mut self.ebpf, STEER)?;
        let fail = |source| BpfError::Program { name: STEER, source };
        let fd = hook.fd().map_err(fail)?;
        if let Adopted::No = adopt(&pin, inode, fd.as_fd())? {
            let id = hook.attach(netns.as_fd()).map_err(fail)?;
            let link: FdLink = hook.take_link(id).map_err(fail)?.into();
            pin_link(link, &pin)?;
        }
        Ok(NetnsLink { pin })
    }

    /// Makes a connection that the hooks must see, and looks whether they did: "attach returned 0" is no proof
    /// where another program overrides, or where the cgroup is another mount's.
    ///
    /// # Errors
    /// [`BpfError::NoEffect`].
    pub fn verify_effect(&self) -> Result<(), BpfError> {
        let seen = || {
            let decisions = self.decisions();
            decisions
                .iter()
                .find(|(reason, _)| *reason == Reason::NotEnrolled)
                .map_or(0, |(_, count)| *count)
        };
        let before = seen();
        let probe = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(BpfError::io("probe socket"))?;
        probe
            .set_nonblocking(true)
            .map_err(BpfError::io("probe socket"))?;
        // Nobody listens on tcpmux; whether somebody does makes no difference.
        let _ = probe.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into());
        if seen() > before {
            Ok(())
        } else {
            Err(BpfError::NoEffect(self.config.cgroup.clone()))
        }
    }

    /// Ends the steering of a pod.
    pub fn detach_netns(&self, link: &NetnsLink) {
        remove_pin(&link.pin);
    }

    /// Removes the links of namespaces that no live pod has: an earlier agent's pods that ended while no agent ran.
    pub fn sweep_netns(&self, live: &[&NetnsLink]) {
        let Ok(entries) = fs::read_dir(self.config.bpf_dir.join("netns")) else {
            return;
        };
        for entry in entries.flatten() {
            if !live.iter().any(|link| link.pin == entry.path()) {
                remove_pin(&entry.path());
            }
        }
    }
}

fn adopt(pin: &Path, target: u64, program: std::os::fd::BorrowedFd<'_>) -> Result<Adopted, BpfError> {
    let link = match sys::obj_get(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Adopted::No),
        Err(error) => return Err(BpfError::io(format!("open link {}", pin.display()))(error)),
    };
    let attached_to = sys::link_target(link.as_fd()).unwrap_or(0);
    if attached_to == target {
        match sys::link_update(link.as_fd(), program) {
            Ok(()) => return Ok(Adopted::Yes),
            // What it was attached to is gone (ENOLINK): the pin is a dead file.
            Err(error) => tracing::info!(pin = %pin.display(), %error, "replacing a dead link"),
        }
    } else {
        tracing::info!(pin = %pin.display(), "a link of another target is replaced");
    }
    remove_pin(pin);
    Ok(Adopted::No)
}

fn pin_link(link: FdLink, pin: &Path) -> Result<(), BpfError> {
    // The pin holds the link from here on; our own handle may close.
    link.pin(pin).map(drop).map_err(|error| BpfError::Io {
        what: format!("pin link {}", pin.display()),
        source: std::io::Error::other(error.to_string()),
    })
}

fn remove_pin(pin: &Path) {
    if let Err(error) = fs::remove_file(pin)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(pin = %pin.display(), %error, "cannot remove a pin");
    }
}
