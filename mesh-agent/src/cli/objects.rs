//! What `analyze` and `what-if` look at: a cluster, files, or a cluster as it would be with files.

use super::documents::{self, Document};
use super::live::{self, LiveObject};
use mesh_core::analyze::Given;
use mesh_core::state::{Change, ObjectKey, State};
use mesh_core::translate::Head;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// Objects with their places.
pub(super) struct Objects {
    documents: Vec<Document>,
    live: Vec<LiveObject>,
}

impl Objects {
    /// Reads files, and lists the cluster's objects if that is asked for: those that a file has too are left out.
    ///
    /// # Errors
    /// A file cannot be read, or the cluster does not answer.
    pub(super) async fn read(files: &[PathBuf], cluster: bool) -> anyhow::Result<Self> {
        let documents = documents::read(files)?;
        let mut live = if cluster {
            live::objects().await?
        } else {
            Vec::new()
        };
        let named: HashSet<ObjectKey> = documents
            .iter()
            .filter_map(|document| Some(Head::read(&document.object).ok()?.key))
            .collect();
        live.retain(|one| Head::read(&one.object).map_or(true, |head| !named.contains(&head.key)));
        Ok(Self { documents, live })
    }

    /// Both, the cluster's first.
    pub(super) fn given(&self) -> Vec<Given<'_>> {
        let live = self.live.iter().map(|one| Given {
            object: &one.object,
            origin: one.origin.clone(),
        });
        let documents = self.documents.iter().map(|document| Given {
            object: &document.object,
            origin: document.origin(),
        });
        live.chain(documents).collect()
    }

    /// Documents by origin.
    pub(super) fn by_origin(&self) -> HashMap<String, &Document> {
        self.documents.iter().map(|d| (d.origin(), d)).collect()
    }

    /// Gives them all to a state, as one listing.
    pub(super) fn list_into(&self, state: &mut State) {
        state.apply(Change::Init);
        for given in self.given() {
            state.apply(Change::Apply {
                object: given.object.clone(),
                origin: given.origin,
            });
        }
        state.apply(Change::InitDone);
    }
}
