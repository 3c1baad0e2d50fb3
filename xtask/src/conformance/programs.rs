//! The suite, the CRDs and the applications, from the Go modules of `tests/conformance`.

use crate::image::archive::{Image, digest};
use crate::image::layer::Layer;
use crate::{go, image, shell};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const API: &str = "sigs.k8s.io/gateway-api";
const SUITE: &str = "sigs.k8s.io/gateway-api/conformance";
const ISTIO: &str = "istio.io/istio";
/// Where the server of echo-advanced looks for its certificate, and where Istio's tests have one.
const CERTIFICATE: [(&str, &str); 2] = [("cert-chain.pem", "cert.crt"), ("key.pem", "cert.key")];

/// What is built once, and then found by the hash of what it is built from.
pub(crate) struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Builds them, unless that is done. `HEDDLE_CONFORMANCE_BUILD` is a folder that several trees share.
    pub(crate) fn build() -> Result<Self> {
        let dir = std::env::var_os("HEDDLE_CONFORMANCE_BUILD").map(PathBuf::from);
        let programs = Self {
            dir: dir.unwrap_or_else(|| shell::root().join("target/conformance")),
        };
        let stamp = stamp()?;
        let mark = programs.dir.join("built");
        if fs::read_to_string(&mark).is_ok_and(|mark| mark == stamp) {
            return Ok(programs);
        }
        let _ = fs::remove_file(&mark);
        programs.compile()?;
        programs.collect()?;
        fs::write(&mark, stamp)?;
        Ok(programs)
    }

    /// A program that runs beside the cluster: `suite`, `test2json`, `loadbalancer`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// The CRDs of a release channel.
    pub(crate) fn crds(&self, channel: &str) -> PathBuf {
        self.dir.join("crd").join(channel)
    }

    /// The API's version, which is the suite's.
    pub(crate) fn version(&self) -> Result<String> {
        read_text(&self.dir.join("version"))
    }

    fn compile(&self) -> Result<()> {
        let bin = self.dir.join("bin");
        fs::create_dir_all(&bin)?;
        let packages = [
            ("echo-basic", "sigs.k8s.io/gateway-api/conformance/echo-basic"),
            ("client", "istio.io/istio/pkg/test/echo/cmd/client"),
            ("server", "istio.io/istio/pkg/test/echo/cmd/server"),
            ("test2json", "cmd/test2json"),
            ("coredns", "./coredns"),
            ("loadbalancer", "./loadbalancer"),
        ];
        let strip = ["-ldflags", "-s -w"];
        let mut suite = go_command()?;
        suite
            .args(["test", "-c"])
            .args(strip)
            .arg("-o")
            .arg(bin.join("suite"));
        shell::run("building the Gateway API's suite (minutes, once)", suite.arg("."))?;
        for (name, package) in packages {
            let mut build = go_command()?;
            build.arg("build").args(strip).arg("-o").arg(bin.join(name));
            shell::run(&format!("building {name}"), build.arg(package))?;
        }
        Ok(())
    }

    /// Takes from the modules what a run needs of them, so that it needs no Go.
    fn collect(&self) -> Result<()> {
        let api = module(API)?;
        fs::write(self.dir.join("version"), &api.version)?;
        for channel in ["standard", "experimental"] {
            let to = self.crds(channel);
            fs::create_dir_all(&to)?;
            for file in files(&api.dir.join("config/crd").join(channel), "yaml")? {
                let name = file.file_name().context("a CRD's name")?;
                // What lies beside the CRDs is for kustomize.
                if name != "kustomization.yaml" {
                    fs::write(to.join(name), read(&file)?)?;
                }
            }
        }
        let istio = module(ISTIO)?.dir.join("tests/testdata/certs/dns");
        for (from, to) in CERTIFICATE {
            fs::write(self.dir.join(to), read(&istio.join(from))?)?;
        }
        let mut images = BTreeSet::new();
        for folder in ["base", "mesh", "tests", "tests/mesh"] {
            for manifest in files(&module(SUITE)?.dir.join(folder), "yaml")? {
                images.extend(references(&read_text(&manifest)?));
            }
        }
        let images: Vec<String> = images.into_iter().collect();
        fs::write(self.dir.join("images.txt"), images.join("\n"))?;
        Ok(())
    }

    /// Writes the images that the suite's manifests name, under those names.
    pub(crate) fn images(&self) -> Result<Vec<PathBuf>> {
        let mut archives = Vec::new();
        for reference in read_text(&self.dir.join("images.txt"))?.lines() {
            let file = reference
                .rsplit('/')
                .next()
                .unwrap_or(reference)
                .replace(':', "-");
            let archive = self.dir.join("images").join(format!("{file}.tar"));
            let (layer, entrypoint, user) = self.contents(reference)?;
            let image = Image {
                reference: reference.to_owned(),
                architecture: image::native()?.oci,
                entrypoint: vec![entrypoint],
                command: Vec::new(),
                user: user.to_owned(),
                labels: Vec::new(),
                compressed: false,
                layer: layer.tar()?,
            };
            image.write(&archive)?;
            archives.push(archive);
        }
        Ok(archives)
    }

    fn contents(&self, reference: &str) -> Result<(Layer, &'static str, &'static str)> {
        let mut layer = Layer::default();
        layer.directory("tmp", 0o1777);
        if reference.contains("/echo-basic:") {
            layer.file("echo-basic", 0o755, read(&self.program("echo-basic"))?);
            return Ok((layer, "/echo-basic", "65532:65532"));
        }
        if reference.contains("/echo-advanced:") {
            for name in ["client", "server"] {
                layer.file(
                    &format!("usr/local/bin/{name}"),
                    0o755,
                    read(&self.program(name))?,
                );
            }
            for (_, file) in CERTIFICATE {
                layer.file(file, 0o644, read(&self.dir.join(file))?);
            }
            return Ok((layer, "/usr/local/bin/server", "1338:1338"));
        }
        if reference.contains("/coredns:") {
            layer.file("coredns", 0o755, read(&self.program("coredns"))?);
            return Ok((layer, "/coredns", ""));
        }
        bail!("the suite's manifests ask for {reference}, which nothing here can make")
    }
}

/// Changes whenever something else would be built.
fn stamp() -> Result<String> {
    let folder = shell::root().join("tests/conformance");
    let mut all = include_bytes!("programs.rs").to_vec();
    for name in [
        "go.mod",
        "go.sum",
        "programs.go",
        "suite_test.go",
        "coredns/main.go",
        "loadbalancer/main.go",
    ] {
        all.extend(read(&folder.join(name))?);
    }
    Ok(digest(&all))
}

fn go_command() -> Result<Command> {
    let mut command = shell::command("nice");
    go::find()?.add_to(&mut command);
    command
        .arg("go")
        .current_dir(shell::root().join("tests/conformance"))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-trimpath -buildvcs=false");
    Ok(command)
}

struct Module {
    version: String,
    dir: PathBuf,
}

/// Where a module's sources are; they have been downloaded to be compiled.
fn module(path: &str) -> Result<Module> {
    let format = "{{.Version}} {{.Dir}}";
    let said = shell::quiet(go_command()?.args(["list", "-m", "-f", format, path]));
    let said = said.with_context(|| format!("go does not know the module {path}"))?;
    let (version, dir) = said.trim().split_once(' ').context("a module's folder")?;
    Ok(Module {
        version: version.to_owned(),
        dir: PathBuf::from(dir),
    })
}

/// Images that a manifest names.
fn references(manifest: &str) -> impl Iterator<Item = String> {
    manifest
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image:"))
        .map(|image| image.trim().trim_matches('"').to_owned())
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::references;

    #[test]
    fn images_are_found_in_a_manifest_wherever_their_line_stands() {
        let manifest = "kind: Pod\nspec:\n  containers:\n  - image: a/echo-basic:v1\n    imagePullPolicy: Never\n  - name: b\n    image: \"b/coredns:v2\"\n";
        let found: Vec<String> = references(manifest).collect();
        assert_eq!(found, ["a/echo-basic:v1", "b/coredns:v2"]);
    }
}
