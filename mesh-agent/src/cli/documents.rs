//! YAML and JSON as the command line takes them: files, folders or standard input, each document with the lines that its
//! fields stand on.

use anyhow::{Context, bail};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One object of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// The object.
    pub(super) object: Value,
    /// The file's name as it was given; `-` for standard input.
    pub(super) file: String,
    /// Line of the object's first field.
    pub(super) line: u64,
    /// Line of each field, by its path.
    lines: HashMap<String, u64>,
}

impl Document {
    /// `file:line` of the object, unique among those that were read.
    pub(super) fn origin(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// The line of a field, or of the nearest field around it that is written.
    pub(super) fn line_of(&self, field: &str) -> u64 {
        let mut field = field;
        loop {
            if let Some(line) = self.lines.get(field) {
                return *line;
            }
            match field.rfind(['.', '[']) {
                Some(end) => field = &field[..end],
                None => return self.line,
            }
        }
    }
}

/// Reads files; a folder stands for the YAML and JSON files right in it, `-` for standard input.
///
/// # Errors
/// A file cannot be read or is no YAML; the text names file and line.
pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("read standard input")?;
            documents.extend(parse("-", &text)?);
        } else if path.is_dir() {
            for file in files_of(path)? {
                documents.extend(read_file(&file)?);
            }
        } else {
            documents.extend(read_file(path)?);
        }
    }
    Ok(documents)
}

fn files_of(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("list {}", folder.display()))?
            .path();
        let yaml = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if yaml && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> anyhow::Result<Vec<Document>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&path.display().to_string(), &text)
}

/// All documents of a text, the items of a `List` each on its own; empty documents are none.
pub(super) fn parse(file: &str, text: &str) -> anyhow::Result<Vec<Document>> {
    let nodes = match serde_saphyr::from_multiple::<Spanned<Node>>(text) {
        Ok(nodes) => nodes,
        Err(error) => {
            let said = error.to_string();
            bail!("{file}: {}", said.lines().next().unwrap_or("not YAML"));
        }
    };
    let mut documents = Vec::new();
    for node in nodes {
        match items(node)? {
            Ok(items) => documents.extend(items.into_iter().map(|item| document(file, item))),
            Err(node) => documents.push(document(file, node)),
        }
    }
    documents.retain(|document| !document.object.is_null());
    Ok(documents)
}

/// The items of a `List`, or the node itself.
fn items(node: Spanned<Node>) -> anyhow::Result<Result<Vec<Spanned<Node>>, Spanned<Node>>> {
    let Node::Map(fields) = node.value else {
        return Ok(Err(node));
    };
    let is_list = fields.iter().any(|(key, value)| {
        key.value == "kind"
            && matches!(&value.value, Node::Scalar(Value::String(kind)) if kind.ends_with("List"))
    });
    let place = fields
        .iter()
        .position(|(key, value)| key.value == "items" && matches!(value.value, Node::List(_)));
    match place.filter(|_| is_list) {
        Some(place) => {
            let mut fields = fields;
            match fields.swap_remove(place).1.value {
                Node::List(items) => Ok(Ok(items)),
                _ => bail!("a List without items"),
            }
        }
        None => Ok(Err(Spanned::new(
            Node::Map(fields),
            node.referenced,
            node.defined,
        ))),
    }
}

fn document(file: &str, node: Spanned<Node>) -> Document {
    let mut lines = HashMap::new();
    let line = node.referenced.line();
    let object = value(String::new(), node, line, &mut lines);
    Document {
        object,
        file: file.to_owned(),
        line,
        lines,
    }
}

/// The value without its places, which go into `lines`.
fn value(at: String, node: Spanned<Node>, line: u64, lines: &mut HashMap<String, u64>) -> Value {
    let value = match node.value {
        Node::Scalar(scalar) => scalar,
        Node::List(items) => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| {
                let line = item.referenced.line();
                value(format!("{at}[{i}]"), item, line, lines)
            })
            .collect(),
        Node::Map(fields) => {
            let mut map = Map::new();
            for (key, field) in fields {
                let path = if at.is_empty() {
                    key.value.clone()
                } else {
                    format!("{at}.{}", key.value)
                };
                // Where the library does not know the place of a key, its value's is the next best.
                let line = match key.referenced.line() {
                    0 => field.referenced.line(),
                    line => line,
                };
                let inner = value(path, field, line, lines);
                map.insert(key.value, inner);
            }
            map.into()
        }
    };
    lines.insert(at, line);
    value
}

/// JSON's data model with places.
#[derive(Debug)]
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("JSON has no such number"))?;
        Ok(Node::Scalar(number.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry::<Spanned<String>, Spanned<Node>>()? {
            fields.push(field);
        }
        Ok(Node::Map(fields))
    }
}

#[cfg(test)]
mod tests;
