//! How the node's CNI configuration changes when the plug-in comes and goes. Pure: text in, text out.
//!
//! The entry is written into the file's own text and nothing else of the file is touched, so that taking the entry out
//! gives the CNI's file back byte for byte.

use super::PLUGIN_TYPE;
use super::json::{elements, member, skip_space};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::Range;
use std::path::PathBuf;

/// Endings of the files that a container runtime loads (containerd's go-cni; CRI-O's ocicni takes the same).
const ENDINGS: [&str; 3] = [".conf", ".conflist", ".json"];

/// Why a file cannot take the plug-in. The caller names the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflistError {
    /// No JSON: the runtime cannot read it either.
    #[error("is not JSON: {0}")]
    NotJson(String),
    /// No object.
    #[error("is no JSON object")]
    NotAnObject,
    /// A list without plug-ins gives no pod a network.
    #[error("field plugins: expected a list of at least one plug-in")]
    NoPlugins,
    /// A single configuration without a plug-in.
    #[error("field type: expected the name of a plug-in")]
    NoType,
    /// Before 0.3.0 a plug-in does not learn what the one before it did.
    #[error("field cniVersion: {0} cannot chain plug-ins, 0.3.0 or later is needed")]
    TooOld(String),
}

/// The plug-in's own entry in a conflist: what the runtime hands to it on every call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    r#type: &'static str,
    socket: String,
    timeout_seconds: u64,
    fail_open: bool,
    exclude_namespaces: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orphaned: Option<Orphaned>,
}

/// How the plug-in finds out that Heddle was uninstalled while this node's agent was dead, and what it does then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphaned {
    /// Namespace of the agents' pods.
    pub namespace: String,
    /// File that an agent which lives touches.
    pub life_sign: PathBuf,
    /// Arguments with which this program removes everything of the mesh from the node.
    pub cleanup: Vec<String>,
}

impl Entry {
    /// `socket` is a path on the node, where the plug-in runs.
    #[must_use]
    pub fn new(
        socket: String,
        timeout_seconds: u64,
        fail_open: bool,
        exclude_namespaces: Vec<String>,
    ) -> Self {
        Self {
            r#type: PLUGIN_TYPE,
            socket,
            timeout_seconds,
            fail_open,
            exclude_namespaces,
            orphaned: None,
        }
    }

    /// Lets the plug-in remove the mesh from a node that it has left.
    #[must_use]
    pub fn removing(mut self, orphaned: Orphaned) -> Self {
        self.orphaned = Some(orphaned);
        self
    }

    fn text(&self) -> String {
        // A struct of strings and numbers always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The file that the runtime uses: the first in lexical order of those that it loads.
#[must_use]
pub fn active<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().filter(|name| is_loaded(name)).min()
}

/// Whether a runtime would load a file of this name.
#[must_use]
pub fn is_loaded(name: &str) -> bool {
    // Go's filepath.Ext: hidden files and a bare ".conf" count too.
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file of this name holds a list of plug-ins rather than one.
#[must_use]
pub fn is_list(name: &str) -> bool {
    name.ends_with(".conflist")
}

/// A conflist with exactly one entry of ours, as `entry` says: `None` if it is so already, wherever in the list. New
/// entries go to the end, after the plug-ins that make the pod's network.
///
/// # Errors
/// See [`ConflistError`].
pub fn insert(text: &str, entry: &Entry) -> Result<Option<String>, ConflistError> {
    let list = List::parse(text)?;
    let wanted = entry.text();
    match list.ours().as_slice() {
        [only] if same_json(&text[only.clone()], &wanted) => return Ok(None),
        [only] => return Ok(Some(splice(text, only.clone(), &wanted))),
        _ => (),
    }
    let bare = remove(text)?;
    let text = bare.as_deref().unwrap_or(text);
    let list = List::parse(text)?;
    let (Some(last), separator) = (list.plugins.last(), list.separator()) else {
        return Err(ConflistError::NoPlugins);
    };
    Ok(Some(splice(
        text,
        last.end..last.end,
        &format!(",{separator}{wanted}"),
    )))
}

/// A conflist without entries of ours: `None` if there are none.
///
/// # Errors
/// See [`ConflistError`]; a list of nothing but our entries is `NoPlugins`.
pub fn remove(text: &str) -> Result<Option<String>, ConflistError> {
    let mut text = text.to_owned();
    let mut changed = false;
    loop {
        let list = List::parse(&text)?;
        let Some(ours) = list.ours().into_iter().next() else {
            return Ok(changed.then_some(text));
        };
        let before = list.plugins.iter().rfind(|plugin| plugin.end <= ours.start);
        let after = list.plugins.iter().find(|plugin| plugin.start >= ours.end);
        let cut = match (before, after) {
            // Exactly what `insert` added: the comma, the space, the entry.
            (Some(before), _) => before.end..ours.end,
            (None, Some(after)) => ours.start..after.start,
            (None, None) => return Err(ConflistError::NoPlugins),
        };
        text = splice(&text, cut, "");
        changed = true;
    }
}

/// A list that holds a single configuration, as it was written, and our entry after it.
///
/// # Errors
/// See [`ConflistError`].
pub fn wrap(text: &str, entry: &Entry) -> Result<String, ConflistError> {
    let config = object(text)?;
    if config
        .get("type")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        return Err(ConflistError::NoType);
    }
    let version = chainable_version(&config)?;
    let name = config.get("name").and_then(Value::as_str).unwrap_or(PLUGIN_TYPE);
    let quote = |text: &str| Value::from(text).to_string();
    Ok(format!(
        "{{\n  \"cniVersion\": {},\n  \"name\": {},\n  \"plugins\": [\n{},\n{}\n  ]\n}}\n",
        quote(version),
        quote(name),
        text.trim(),
        entry.text()
    ))
}

/// Whether `list` is what [`wrap`] made of `single`, whatever our entry says.
#[must_use]
pub fn wraps(list: &str, single: &str) -> bool {
    let (Ok(list), Ok(single)) = (object(list), object(single)) else {
        return false;
    };
    let theirs = |plugin: &&Value| plugin.get("type").and_then(Value::as_str) != Some(PLUGIN_TYPE);
    let plugins = list.get("plugins").and_then(Value::as_array);
    plugins.is_some_and(|plugins| plugins.iter().filter(theirs).eq([&single]))
}

/// A conflist that has been parsed, and where its plug-ins lie.
struct List<'a> {
    text: &'a str,
    plugins: Vec<Range<usize>>,
}

impl<'a> List<'a> {
    fn parse(text: &'a str) -> Result<Self, ConflistError> {
        let list = object(text)?;
        chainable_version(&list)?;
        let all_objects = |plugins: &Vec<Value>| !plugins.is_empty() && plugins.iter().all(Value::is_object);
        if !list
            .get("plugins")
            .and_then(Value::as_array)
            .is_some_and(all_objects)
        {
            return Err(ConflistError::NoPlugins);
        }
        let plugins = member(text, skip_space(text, 0), "plugins").ok_or(ConflistError::NoPlugins)?;
        Ok(Self {
            text,
            plugins: elements(text, plugins.start),
        })
    }

    fn ours(&self) -> Vec<Range<usize>> {
        let is_ours = |plugin: &&Range<usize>| {
            serde_json::from_str::<Value>(&self.text[(*plugin).clone()])
                .is_ok_and(|plugin| plugin.get("type").and_then(Value::as_str) == Some(PLUGIN_TYPE))
        };
        self.plugins.iter().filter(is_ours).cloned().collect()
    }

    /// The white space that the file puts before a plug-in.
    fn separator(&self) -> &'a str {
        let Some(last) = self.plugins.last() else {
            return "";
        };
        let before = &self.text[..last.start];
        &before[before.trim_end_matches([' ', '\t', '\n', '\r']).len()..]
    }
}

fn object(text: &str) -> Result<Value, ConflistError> {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err(ConflistError::NotAnObject),
        Err(error) => Err(ConflistError::NotJson(error.to_string())),
    }
}

/// The version that plug-ins are called with. `cniVersions` (1.1) offers several: the runtime takes the newest it knows.
fn chainable_version(config: &Value) -> Result<&str, ConflistError> {
    let offered = config.get("cniVersions").and_then(Value::as_array);
    let version = config
        .get("cniVersion")
        .and_then(Value::as_str)
        .or_else(|| offered?.iter().filter_map(Value::as_str).next_back())
        .unwrap_or("0.1.0");
    if version.starts_with("0.1.") || version.starts_with("0.2.") || version.is_empty() {
        return Err(ConflistError::TooOld(version.to_owned()));
    }
    Ok(version)
}

fn same_json(left: &str, right: &str) -> bool {
    let parse = serde_json::from_str::<Value>;
    matches!((parse(left), parse(right)), (Ok(left), Ok(right)) if left == right)
}

fn splice(text: &str, cut: Range<usize>, with: &str) -> String {
    let mut out = String::with_capacity(text.len() + with.len());
    out.push_str(&text[..cut.start]);
    out.push_str(with);
    out.push_str(&text[cut.end..]);
    out
}

#[cfg(test)]
mod tests;
