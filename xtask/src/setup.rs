//! What building and testing needs: found, or installed, or asked for by name.

use crate::shell;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

const BPF_LINKER: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

/// A distribution package and a file or program that shows that it is there.
pub(crate) struct Package {
    name: &'static str,
    shown_by: &'static str,
}

const fn package(name: &'static str, shown_by: &'static str) -> Package {
    Package { name, shown_by }
}

/// C compiler for the cryptography library, and what makes and looks at namespaces.
const BASE: &[Package] = &[
    package("gcc", "cc"),
    package("libc6-dev", "/usr/include/stdio.h"),
    package("cmake", "cmake"),
    package("make", "make"),
    package("iproute2", "ip"),
    package("nftables", "nft"),
    package("prometheus", "promtool"),
];

/// The BPF toolchain of the distribution, for machines whose nightly Rust has no `rust-src`.
const BPF: &[Package] = &[
    package("rustc-web", "/usr/bin/rustc"),
    package(
        "libstd-rust-web-dev-bpf",
        "/usr/lib/rustlib/bpfel-unknown-none/lib",
    ),
];

/// What bpf-linker is built with.
const LINKER: &[Package] = &[
    package("llvm-22-dev", "/usr/lib/llvm-22/bin/llvm-config"),
    package("zlib1g-dev", "/usr/include/zlib.h"),
    package("libzstd-dev", "/usr/include/zstd.h"),
    package("libxml2-dev", "/usr/include/libxml2/libxml/parser.h"),
    package("g++", "g++"),
];

/// Peers and load generators of the bench.
pub(crate) const BENCH: &[Package] = &[
    package("wrk", "wrk"),
    package("nghttp2-client", "h2load"),
    package("nginx-light", "nginx"),
    package(
        "libnginx-mod-stream",
        "/usr/lib/nginx/modules/ngx_stream_module.so",
    ),
    package("haproxy", "haproxy"),
    package("openssl", "openssl"),
    package("python3-venv", "/usr/share/doc/python3-venv"),
];

/// What the test cluster's machines run, and what makes them.
pub(crate) const CLUSTER: &[Package] = &[
    package("containerd", "containerd"),
    package("runc", "runc"),
    package("containernetworking-plugins", "/usr/lib/cni/bridge"),
    package("iproute2", "ip"),
    package("iptables", "iptables"),
    package("nftables", "nft"),
    package("conntrack", "conntrack"),
    package("socat", "socat"),
    package("busybox-static", "/bin/busybox"),
    package("curl", "curl"),
    package("bpftool", "bpftool"),
    package("procps", "pgrep"),
    package("openssl", "openssl"),
];

/// Everything that `build-ebpf`, `demo` and `test` need.
pub(crate) fn run() -> Result<()> {
    packages(BASE)?;
    if !nightly_has_source() {
        packages(BPF)?;
    }
    if linker().is_none() {
        packages(LINKER)?;
        tool(
            "bpf-linker",
            &[
                "--version",
                BPF_LINKER,
                "--no-default-features",
                "--features",
                "llvm-22",
            ],
        )?;
    }
    eprintln!("✔ setup: everything needed is here");
    Ok(())
}

/// Whether this process may make namespaces and install packages.
pub(crate) fn is_root() -> bool {
    shell::quiet(shell::command("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

/// Whether the nightly toolchain can build `core` itself.
pub(crate) fn nightly_has_source() -> bool {
    let sysroot = shell::quiet(shell::command("rustc").args(["+nightly", "--print", "sysroot"]));
    sysroot.is_some_and(|path| {
        Path::new(path.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
    })
}

/// Folder of the tools that setup builds.
pub(crate) fn tools() -> PathBuf {
    shell::root().join("target/tools")
}

/// The folder with a bpf-linker of the right version: ours or the user's.
pub(crate) fn linker() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    [Some(tools().join("bin")), home.map(|home| home.join("bin"))]
        .into_iter()
        .flatten()
        .find(|dir| {
            let program = dir.join("bpf-linker");
            shell::quiet(shell::command(&program.display().to_string()).arg("--version"))
                .is_some_and(|version| version.contains(BPF_LINKER))
        })
}

/// Builds a tool from the crate registry into target/tools.
pub(crate) fn tool(name: &str, args: &[&str]) -> Result<()> {
    let mut cargo = shell::command("cargo");
    cargo
        .arg("install")
        .arg(name)
        .args(args)
        .arg("--locked")
        .arg("--root")
        .arg(tools());
    cargo
        .env("LLVM_PREFIX", LLVM)
        .env("LLVM_SYS_221_PREFIX", LLVM)
        .env_remove("CARGO_TARGET_DIR");
    cargo.current_dir("/");
    shell::run(&format!("building {name} (minutes, once)"), &mut cargo)
}

/// Installs those of the packages that are missing, and nothing when none is.
pub(crate) fn packages(wanted: &[Package]) -> Result<()> {
    let there = |package: &Package| match package.shown_by.strip_prefix('/') {
        Some(_) => Path::new(package.shown_by).exists(),
        None => shell::installed(package.shown_by),
    };
    let missing: Vec<&str> = wanted.iter().filter(|p| !there(p)).map(|p| p.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("this machine lacks {list} (names as in Debian) and has no apt-get: install them");
    }
    if !is_root() {
        bail!("this machine lacks {list}: run `sudo apt-get install {list}`, or this command as root");
    }
    let apt = |args: &[&str]| {
        let mut command = shell::command("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    // The lists may be old or absent; an install that succeeds without says that they were not needed.
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(&missing);
    if shell::run(&format!("installing {list}"), &mut apt(&install)).is_err() {
        shell::run("apt-get update", &mut apt(&["update", "-q"]))?;
        shell::run(&format!("installing {list}"), &mut apt(&install))?;
    }
    Ok(())
}
