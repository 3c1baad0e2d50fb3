//! Images of the cluster's own pods and of the suites' applications, from programs that are here.

use crate::image::archive::Image;
use crate::image::elf;
use crate::image::layer::Layer;
use crate::{image, shell};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Names under which busybox is in the client image.
const APPLETS: &str = "cat cut date dd env false find grep head hostname id kill ls mkdir mount nc nsenter nslookup ping \
                       ps readlink rm sed sh sleep stat tail test touch tr true wc wget awk";
/// Programs of this machine with which a test looks around in a pod or a node.
const TOOLS: &[&str] = &["bpftool", "curl", "ip"];

/// Writes into `images` what is not there for the programs that `build` holds now.
pub(crate) fn write(build: &Path) -> Result<()> {
    let images = build.join("images");
    let built = fs::read_to_string(build.join("built")).context("nothing is built")?;
    let made = format!(
        "{built}{:x?}",
        image::archive::digest(include_bytes!("images.rs"))
    );
    let mark = images.join("made");
    if fs::read_to_string(&mark).is_ok_and(|mark| mark == made) {
        return Ok(());
    }
    let program = |name: &str| read(&build.join("bin").join(name));
    let single = |name: &'static str| -> Result<Layer> {
        let mut layer = Layer::default();
        layer.file(name, 0o755, program(name)?);
        Ok(layer)
    };
    archive("pause", &["/pause"], &[], &single("pause")?, &images)?;
    archive("coredns", &["/coredns"], &[], &single("coredns")?, &images)?;
    archive("echo", &["/echo"], &["serve"], &single("echo")?, &images)?;
    let mut client = Layer::default();
    client.file("usr/bin/echo-client", 0o755, program("echo")?);
    client.file("usr/bin/probe", 0o755, program("probe")?);
    tools(&mut client)?;
    archive("client", &[], &["/bin/sleep", "infinity"], &client, &images)?;
    fs::write(mark, made)?;
    eprintln!("  made the images in {}", images.display());
    Ok(())
}

fn tools(layer: &mut Layer) -> Result<()> {
    layer.directory("tmp", 0o1777);
    layer.directory("root", 0o700);
    layer.file("bin/busybox", 0o755, read(Path::new("/bin/busybox"))?);
    for applet in APPLETS.split_whitespace() {
        layer.link(&format!("bin/{applet}"), "busybox");
    }
    let gnu = image::native()?.gnu;
    for tool in TOOLS {
        let place = shell::which(tool).with_context(|| format!("no {tool} on this machine"))?;
        layer.file(&format!("usr/bin/{tool}"), 0o755, read(&place)?);
        for library in elf::libraries(&place, gnu)? {
            layer.file(&library.name, 0o755, read(&library.file)?);
        }
    }
    Ok(())
}

/// Uncompressed: every node unpacks it at every start, and nobody downloads it.
fn archive(
    name: &str,
    entrypoint: &[&'static str],
    command: &[&'static str],
    layer: &Layer,
    images: &Path,
) -> Result<PathBuf> {
    let output = images.join(format!("{name}.tar"));
    let image = Image {
        reference: format!("k8s.test/{name}:1"),
        architecture: image::native()?.oci,
        entrypoint: entrypoint.to_vec(),
        command: command.to_vec(),
        user: String::new(),
        labels: Vec::new(),
        compressed: false,
        layer: layer.tar()?,
    };
    image.write(&output)?;
    Ok(output)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}
