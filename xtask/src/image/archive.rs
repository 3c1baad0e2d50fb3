//! An image archive that containerd takes as an OCI layout (<https://github.com/opencontainers/image-spec>, v1.1) and
//! Docker by its own `manifest.json`: the same blobs, two indexes.

use super::layer;
use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use tar::{Builder, EntryType};

/// No time is part of an image: two made of the same program are the same.
const CREATED: &str = "1970-01-01T00:00:00Z";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image of one layer.
pub(crate) struct Image {
    /// Name and tag.
    pub(crate) reference: String,
    /// As OCI names it: `amd64`, `arm64`.
    pub(crate) architecture: &'static str,
    pub(crate) entrypoint: Vec<&'static str>,
    pub(crate) command: Vec<&'static str>,
    /// `UID:GID`; empty is root.
    pub(crate) user: String,
    pub(crate) labels: Vec<(&'static str, &'static str)>,
    /// Whether the archive holds the layer compressed.
    pub(crate) compressed: bool,
    /// Uncompressed tar.
    pub(crate) layer: Vec<u8>,
}

impl Image {
    /// Writes the archive; gives the manifest's digest.
    pub(crate) fn write(&self, output: &Path) -> Result<String> {
        let (files, digest) = self.files()?;
        if let Some(dir) = output.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut archive = Builder::new(Vec::new());
        for (name, data) in &files {
            let mut header = layer::header(EntryType::Regular, 0o644, data.len());
            archive.append_data(&mut header, name, data.as_slice())?;
        }
        std::fs::write(output, archive.into_inner()?)
            .with_context(|| format!("writing {}", output.display()))?;
        Ok(digest)
    }

    /// The archive's files by name, and the manifest's digest.
    fn files(&self) -> Result<(BTreeMap<String, Vec<u8>>, String)> {
        let layer = if self.compressed {
            let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
            gzip.write_all(&self.layer)?;
            Blob::new(LAYER_GZIP, gzip.finish()?)
        } else {
            Blob::new(LAYER, self.layer.clone())
        };
        let config = Blob::new(CONFIG, serde_json::to_vec(&self.config())?);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        });
        let manifest = Blob::new(MANIFEST, serde_json::to_vec(&manifest)?);
        let mut listed = manifest.descriptor();
        let (name, tag) = self
            .reference
            .rsplit_once(':')
            .unwrap_or((&self.reference, "latest"));
        listed["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
        listed["annotations"] = json!({
            "io.containerd.image.name": format!("{name}:{tag}"),
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [listed],
        });
        let docker = json!([{
            "Config": config.path(),
            "RepoTags": [self.reference],
            "Layers": [layer.path()],
        }]);
        let digest = manifest.digest.clone();
        let mut files = BTreeMap::from([
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".to_owned(), serde_json::to_vec(&index)?),
            ("manifest.json".to_owned(), serde_json::to_vec(&docker)?),
        ]);
        for blob in [layer, config, manifest] {
            files.insert(blob.path(), blob.data);
        }
        Ok((files, digest))
    }

    fn config(&self) -> Value {
        let labels: BTreeMap<_, _> = self.labels.iter().copied().collect();
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": CREATED,
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "User": self.user,
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&self.layer)] },
            "history": [{ "created": CREATED, "created_by": "cargo xtask image" }],
        })
    }
}

struct Blob {
    media: &'static str,
    digest: String,
    data: Vec<u8>,
}

impl Blob {
    fn new(media: &'static str, data: Vec<u8>) -> Self {
        let digest = digest(&data);
        Self { media, digest, data }
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media, "digest": self.digest, "size": self.data.len() })
    }
}

/// `sha256:…`, as OCI names blobs.
pub(crate) fn digest(data: &[u8]) -> String {
    Sha256::digest(data)
        .iter()
        .fold("sha256:".to_owned(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::{Image, digest};
    use serde_json::Value;

    fn image() -> Image {
        Image {
            reference: "heddle.io/heddle:1.2.3".to_owned(),
            architecture: "arm64",
            entrypoint: vec!["/bin/program"],
            command: Vec::new(),
            user: "65532:65532".to_owned(),
            labels: Vec::new(),
            compressed: true,
            layer: b"not really a tar".to_vec(),
        }
    }

    #[test]
    fn the_same_layer_gives_the_same_archive_and_another_does_not() {
        assert_eq!(image().files().unwrap(), image().files().unwrap());
        let mut other = image();
        other.layer.push(0);
        assert_ne!(other.files().unwrap().1, image().files().unwrap().1);
    }

    #[test]
    fn both_indexes_lead_to_blobs_that_are_there_and_have_their_digest() {
        let (files, manifest) = image().files().unwrap();
        let parse = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        let index = parse("index.json");
        assert_eq!(index["manifests"][0]["digest"], manifest);
        let oci = parse(&blob(&index["manifests"][0]["digest"]));
        let docker = parse("manifest.json");
        assert_eq!(docker[0]["Config"], blob(&oci["config"]["digest"]));
        assert_eq!(docker[0]["Layers"][0], blob(&oci["layers"][0]["digest"]));
        for part in [&oci["config"], &oci["layers"][0], &index["manifests"][0]] {
            let data = &files[&blob(&part["digest"])];
            assert_eq!(digest(data), part["digest"].as_str().unwrap());
            assert_eq!(data.len() as u64, part["size"].as_u64().unwrap());
        }
        let config = parse(&blob(&oci["config"]["digest"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(b"not really a tar"));
    }
}
