//! A folder of ordinary Kubernetes, Istio and Gateway API YAML (or JSON), watched for change.
//!
//! Each look at the folder is one listing, in batches: `Init`, an `Apply` per object, `InitDone`. A file that cannot be read or
//! parsed yields `Unreadable`, so that what it said last stays in force.

use crate::changes::Changes;
use mesh_core::state::Change;
use notify::RecursiveMode;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};
use tokio::sync::mpsc;

/// Files larger than this are refused: an object of the API server is at most 1.5 MiB (etcd), so this is a folder of
/// objects in one file and not a mistake.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Text of which the objects are handed over together.
const BATCH_BYTES: usize = 64 * 1024;
/// Editors write in several steps; looking once after they are quiet sees the whole.
const QUIET: Duration = Duration::from_millis(20);
/// Changes that the watch missed (network file systems, a full inotify queue) are found by this.
const RESCAN: Duration = Duration::from_secs(10);

/// Why the folder cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The folder itself cannot be listed.
    #[error("cannot list {0}")]
    List(PathBuf, #[source] io::Error),
    /// No inotify watch.
    #[error("cannot watch {0}")]
    Watch(PathBuf, #[source] notify::Error),
}

/// Sends a listing at once and another whenever the folder changes, until the receiver is gone.
///
/// # Errors
/// The folder cannot be watched or, at the start, listed.
pub async fn watch(dir: PathBuf, changes: mpsc::Sender<Vec<Change>>) -> Result<(), FilesError> {
    let watched = Changes::of(&dir, RecursiveMode::Recursive);
    let mut watched = watched.map_err(|error| FilesError::Watch(dir.clone(), error))?;
    let mut last = None;
    let mut first = true;
    loop {
        match list(&dir) {
            Ok(files) => {
                let fingerprint = fingerprint(&files);
                if last != Some(fingerprint) {
                    last = Some(fingerprint);
                    if !hand_over(files, &changes).await {
                        return Ok(());
                    }
                }
            }
            Err(error) if first => return Err(FilesError::List(dir, error)),
            // The last listing stays in force: a folder that cannot be read is not an empty one.
            Err(error) => tracing::error!(dir = %dir.display(), %error, "cannot list the config folder"),
        }
        first = false;
        tokio::select! {
            () = watched.any() => watched.settle(QUIET).await,
            () = tokio::time::sleep(RESCAN) => {}
            () = changes.closed() => return Ok(()),
        }
    }
}

/// Sends a listing; whether anyone still takes it. Large files are read aside: the thread that watches them has to say all
/// the time that the agent lives.
async fn hand_over(files: Vec<FoundFile>, changes: &mpsc::Sender<Vec<Change>>) -> bool {
    let mut batches = listing(files);
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let batch = batches.next();
            (batch, batches)
        });
        match read.await {
            Ok((Some(batch), rest)) => {
                if changes.send(batch).await.is_err() {
                    return false;
                }
                batches = rest;
            }
            Ok((None, _)) => return true,
            Err(error) => {
                tracing::error!(%error, "cannot read the config folder to its end");
                return true;
            }
        }
    }
}

/// One file as it was found: name relative to the folder, and its text or why it has none.
type FoundFile = (String, Result<String, String>);

fn fingerprint(files: &[FoundFile]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    hasher.finish()
}

fn list(dir: &Path) -> io::Result<Vec<FoundFile>> {
    let mut paths = Vec::new();
    collect(dir, &mut paths)?;
    paths.sort();
    Ok(paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
            let text = read(&path);
            (name, text)
        })
        .collect())
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect(&path, into)?;
        } else if path
            .extension()
            .is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json")
        {
            into.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

/// The folder as batches. Objects take several times the memory of their text: those of a file are gone before many more
/// are read.
fn listing(files: Vec<FoundFile>) -> impl Iterator<Item = Vec<Change>> + Send + use<> {
    let mut files = files.into_iter();
    let mut begun = false;
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut batch = Vec::new();
        if !begun {
            batch.push(Change::Init);
            begun = true;
        }
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let Some((origin, text)) = files.next() else {
                done = true;
                batch.push(Change::InitDone);
                break;
            };
            bytes += text.as_ref().map_or(0, String::len);
            match text.and_then(|text| parse(&text)) {
                Ok(objects) => batch.extend(objects.into_iter().map(|object| Change::Apply {
                    object,
                    origin: origin.clone(),
                })),
                Err(reason) => batch.push(Change::Unreadable { origin, reason }),
            }
        }
        Some(batch)
    })
}

/// All documents of a file, the items of a `List` each on its own.
fn parse(text: &str) -> Result<Vec<Value>, String> {
    // YAML 1.2 contains JSON. Depth, aliases and size are bounded by the library's default budget.
    let documents = serde_saphyr::from_multiple::<Value>(text).map_err(|error| {
        // The first line says where and what; the others draw a picture.
        error.to_string().lines().next().unwrap_or("not YAML").to_owned()
    })?;
    let mut objects = Vec::new();
    for mut document in documents {
        let is_list = document
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.ends_with("List"));
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if is_list => objects.extend(items),
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests;
