//! CAs that objects of Gateway API name (`caCertificateRefs`): ConfigMaps with `ca.crt`.

use super::tables::Tables;
use crate::model::ObjectName;
use crate::model::gateway::CredentialSource;
use std::sync::Arc;

/// What a list of references comes to. An entry that leads nowhere takes nothing from the others.
#[derive(Default)]
pub(super) struct Authorities {
    /// The certificates of all that are there; `None` if none is.
    pub(super) found: Option<CredentialSource>,
    /// The first that is not, and what is wrong with it.
    pub(super) lacking: Option<(Lacking, String)>,
}

/// Why a reference leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// It names a kind that holds no CA.
    Kind,
    /// What it names is not there, or holds none.
    Object,
    /// It leads into another namespace, and nobody there permits it.
    Grant,
}

/// A reference: group and kind, and name.
pub(super) type Wanted<'a> = (&'a (Arc<str>, Arc<str>), ObjectName);

impl Tables {
    /// Follows references. `permitted` says whether an object of another namespace may be named.
    pub(super) fn authorities<'a>(
        &self,
        wanted: impl Iterator<Item = Wanted<'a>>,
        permitted: impl Fn(&ObjectName) -> bool,
    ) -> Authorities {
        let mut authorities = Authorities::default();
        let mut found: Vec<(String, Arc<[u8]>)> = Vec::new();
        for (kind, name) in wanted {
            let problem = match (&*kind.0, &*kind.1) {
                ("", "ConfigMap") if !permitted(&name) => {
                    let reason = format!("no ReferenceGrant permits ConfigMap {name}");
                    Some((Lacking::Grant, reason))
                }
                ("", "ConfigMap") => match self.authority(&name) {
                    Ok(pem) => {
                        found.push((format!("ConfigMap {name} key ca.crt"), pem));
                        None
                    }
                    Err(reason) => Some((Lacking::Object, reason)),
                },
                (group, kind) => {
                    let reason = format!("a CA is in a ConfigMap, not in a {kind} of group {group:?}");
                    Some((Lacking::Kind, reason))
                }
            };
            authorities.lacking = authorities.lacking.or(problem);
        }
        authorities.found = joined(found);
        authorities
    }

    fn authority(&self, name: &ObjectName) -> Result<Arc<[u8]>, String> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        if self.blind {
            let reason =
                format!("ConfigMap {name} cannot be checked: the controller may not read ConfigMaps");
            return Err(reason);
        }
        let map = self.material("ConfigMap", name);
        // One without any CA is not kept.
        let map = map.ok_or_else(|| format!("ConfigMap {name} with ca.crt is not there"))?;
        let pem = map.data.get("ca.crt");
        let good = |pem: &&Arc<[u8]>| std::str::from_utf8(pem).is_ok_and(|text| text.contains(BEGIN));
        let reason = || format!("ca.crt of ConfigMap {name} has no certificate in PEM");
        pem.filter(good).map(Arc::clone).ok_or_else(reason)
    }
}

/// Several texts as one: a list of certificates in PEM is one.
fn joined(found: Vec<(String, Arc<[u8]>)>) -> Option<CredentialSource> {
    let mut names = Vec::new();
    let mut all: Option<Arc<[u8]>> = None;
    for (name, pem) in found {
        names.push(name);
        all = Some(match all {
            None => pem,
            Some(before) => [&before[..], b"\n", &pem[..]].concat().into(),
        });
    }
    Some(CredentialSource::Object {
        named: names.join(", ").into(),
        pem: all?,
    })
}
