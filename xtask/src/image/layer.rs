//! A file system as a tar stream: sorted, no times, no owners but root.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use tar::{Builder, EntryType, Header};

enum Entry {
    Directory { mode: u32 },
    File { mode: u32, data: Vec<u8> },
    Link { target: String },
}

/// What is in the layer, by path without a leading slash. Folders above an entry come by themselves.
#[derive(Default)]
pub(crate) struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.insert(path, Entry::Directory { mode });
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        self.insert(path, Entry::File { mode, data });
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        let target = target.to_owned();
        self.insert(path, Entry::Link { target });
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        for (at, _) in path.match_indices('/') {
            self.entries
                .entry(path[..at].to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The tar stream. A folder sorts before what is in it.
    pub(crate) fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory { mode } => {
                    let mut header = header(EntryType::Directory, *mode, 0);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())
                }
                Entry::File { mode, data } => {
                    let mut header = header(EntryType::Regular, *mode, data.len());
                    tar.append_data(&mut header, path, data.as_slice())
                }
                Entry::Link { target } => {
                    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)
                }
            }
            .with_context(|| format!("adding {path} to the image"))?;
        }
        Ok(tar.into_inner()?)
    }
}

/// The part of an entry's header that is the same every time.
pub(super) fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::Layer;

    #[test]
    fn entries_are_sorted_with_their_folders_and_without_times() {
        let mut layer = Layer::default();
        layer.link("usr/bin/b", "a");
        layer.file("usr/bin/a", 0o755, b"program".to_vec());
        layer.directory("tmp", 0o1777);
        let bytes = layer.tar().unwrap();
        assert_eq!(bytes, layer.tar().unwrap());
        let mut archive = tar::Archive::new(bytes.as_slice());
        let seen: Vec<(String, u32, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let header = entry.unwrap().header().clone();
                let path = header.path().unwrap().display().to_string();
                (path, header.mode().unwrap(), header.mtime().unwrap())
            })
            .collect();
        let expected = [
            ("tmp/", 0o1777),
            ("usr/", 0o755),
            ("usr/bin/", 0o755),
            ("usr/bin/a", 0o755),
            ("usr/bin/b", 0o777),
        ];
        let expected: Vec<_> = expected.map(|(path, mode)| (path.to_owned(), mode, 0)).into();
        assert_eq!(seen, expected);
    }
}
