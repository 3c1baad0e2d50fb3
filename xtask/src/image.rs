//! `cargo xtask image`: a container image of the agent, made without a daemon. The same program gives the same bytes.

pub(crate) mod archive;
pub(crate) mod elf;
pub(crate) mod layer;

use crate::{bpf, setup, shell, suite};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use layer::Layer;
use std::fs;
use std::path::{Path, PathBuf};

/// The image's name without its tag, which is the workspace's version.
const NAME: &str = "heddle.io/heddle";
/// Above this something got in that does not belong in: bytes.
const LIMIT: u64 = 30 << 20;
/// Whoever runs the image without saying as whom. The node agent's pod says root, and why.
const NONROOT: &str = "65532";

/// What to put into an image, and where.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// `dist` is what is shipped; `release` compiles faster.
    #[arg(long, value_enum, default_value_t = Profile::Dist)]
    pub(crate) profile: Profile,
    /// Rust target of another architecture: aarch64-unknown-linux-gnu.
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// The archive; default: target/image/heddle-VERSION-ARCH.tar.
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
}

impl Options {
    /// What the suites on a cluster run: the profile that the other suites have compiled.
    pub(crate) fn for_tests() -> Self {
        Self::of(Profile::Release)
    }

    /// An image for this machine.
    pub(crate) fn of(profile: Profile) -> Self {
        Self {
            profile,
            target: None,
            output: None,
        }
    }
}

/// How the program is compiled.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Profile {
    Dist,
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dist => "dist",
            Self::Release => "release",
        }
    }
}

/// An architecture, under the names that Rust, GNU and OCI have for it.
pub(crate) struct Machine {
    rust: &'static str,
    pub(crate) gnu: &'static str,
    pub(crate) oci: &'static str,
}

const MACHINES: &[Machine] = &[
    Machine {
        rust: "x86_64-unknown-linux-gnu",
        gnu: "x86_64-linux-gnu",
        oci: "amd64",
    },
    Machine {
        rust: "aarch64-unknown-linux-gnu",
        gnu: "aarch64-linux-gnu",
        oci: "arm64",
    },
];

/// The architecture of this machine.
pub(crate) fn native() -> Result<&'static Machine> {
    machine(&format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
}

fn machine(target: &str) -> Result<&'static Machine> {
    let found = MACHINES.iter().find(|machine| machine.rust == target);
    found.with_context(|| {
        let known: Vec<&str> = MACHINES.iter().map(|machine| machine.rust).collect();
        format!("target {target}: images are made for {}", known.join(", "))
    })
}

/// The tag that an image of this tree carries.
pub(crate) fn reference() -> String {
    format!("{NAME}:{}", env!("CARGO_PKG_VERSION"))
}

/// Builds the program and writes the image; gives the archive's path.
pub(crate) fn run(options: &Options) -> Result<PathBuf> {
    setup::run()?;
    bpf::build()?;
    write(options)
}

/// As [`run`], of a tree that is set up and whose BPF object is built.
pub(crate) fn write(options: &Options) -> Result<PathBuf> {
    let native = native()?;
    let machine = options.target.as_deref().map_or(Ok(native), machine)?;
    let cross = machine.rust != native.rust;
    let program = compile(options.profile, machine, cross)?;
    let layer = contents(&strip(&program, machine, cross)?, machine)?;
    let output = options.output.clone().unwrap_or_else(|| {
        let name = format!("heddle-{}-{}.tar", env!("CARGO_PKG_VERSION"), machine.oci);
        shell::root().join("target/image").join(name)
    });
    let image = archive::Image {
        reference: reference(),
        architecture: machine.oci,
        entrypoint: vec!["/usr/local/bin/mesh-agent"],
        command: Vec::new(),
        user: format!("{NONROOT}:{NONROOT}"),
        labels: vec![
            ("org.opencontainers.image.title", "heddle"),
            ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
            ("org.opencontainers.image.licenses", "Apache-2.0"),
        ],
        compressed: true,
        layer,
    };
    let written = image.write(&output)?;
    let size = fs::metadata(&output)?.len();
    eprintln!(
        "✔ {}: {} ({:.1} MB), {}",
        image.reference,
        output.display(),
        size as f64 / 1e6,
        written
    );
    ensure!(
        size <= LIMIT,
        "{} has {size} bytes, more than the {LIMIT} that an image may have",
        output.display()
    );
    Ok(output)
}

fn compile(profile: Profile, machine: &Machine, cross: bool) -> Result<PathBuf> {
    if matches!(profile, Profile::Release) && !cross {
        // As the other suites have it: alone, its dependencies would have other features and be compiled again.
        suite::build_release()?;
        return Ok(shell::root().join("target/release/mesh-agent"));
    }
    let mut cargo = shell::command("cargo");
    cargo.args([
        "build",
        "-p",
        "mesh-agent",
        "--bin",
        "mesh-agent",
        "--profile",
        profile.name(),
    ]);
    let mut place = shell::root().join("target");
    if cross {
        let compiler = format!("{}-gcc", machine.gnu);
        ensure!(
            shell::installed(&compiler),
            "no {compiler}: install the cross compiler (Debian: gcc-{}), and `rustup target add {}`",
            machine.gnu,
            machine.rust
        );
        let variable = format!(
            "CARGO_TARGET_{}_LINKER",
            machine.rust.replace('-', "_").to_uppercase()
        );
        cargo.args(["--target", machine.rust]).env(variable, compiler);
        place.push(machine.rust);
    }
    shell::run(
        &format!("building the agent for {} ({})", machine.oci, profile.name()),
        &mut cargo,
    )?;
    Ok(place.join(profile.name()).join("mesh-agent"))
}

/// A copy without symbols: the profile itself keeps them, for stack traces of tests and profiles of the bench.
fn strip(program: &Path, machine: &Machine, cross: bool) -> Result<PathBuf> {
    let tool = if cross {
        format!("{}-strip", machine.gnu)
    } else {
        "strip".to_owned()
    };
    let place = shell::root().join("target/image");
    fs::create_dir_all(&place)?;
    let stripped = place.join(format!("mesh-agent-{}", machine.oci));
    shell::run(
        "stripping it",
        shell::command(&tool)
            .arg("--strip-all")
            .arg("-o")
            .args([&stripped, program]),
    )?;
    Ok(stripped)
}

/// The program under both its names, the libraries that it links, and who is who.
fn contents(program: &Path, machine: &Machine) -> Result<Vec<u8>> {
    let mut layer = Layer::default();
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    layer.file("usr/local/bin/mesh-agent", 0o755, read(program)?);
    layer.link("usr/local/bin/heddle", "mesh-agent");
    for library in elf::libraries(program, machine.gnu)? {
        layer.file(&library.name, 0o755, read(&library.file)?);
    }
    let passwd =
        format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{NONROOT}:{NONROOT}:nonroot:/:/sbin/nologin\n");
    layer.file("etc/passwd", 0o644, passwd.into_bytes());
    layer.file(
        "etc/group",
        0o644,
        format!("root:x:0:\nnonroot:x:{NONROOT}:\n").into_bytes(),
    );
    layer.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
    layer.directory("tmp", 0o1777);
    layer.tar()
}
