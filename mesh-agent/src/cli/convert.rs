//! `convert`: old objects → current ones, as YAML on standard output; what changed on standard error.

use super::documents;
use anyhow::Context;
use mesh_core::convert::convert;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file or folder of YAML or JSON, `-` for standard input; may be given again.
    #[arg(long = "filename", short, required = true, value_name = "FILE")]
    file: Vec<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let given = documents::read(&args.file)?;
    let objects: Vec<Value> = given.iter().map(|document| document.object.clone()).collect();
    let done = convert(&objects);
    for note in &done.notes {
        eprintln!("note: {note}");
    }
    for refused in &done.refused {
        eprintln!("error: {refused}");
    }
    print!("{}", yaml(&done.objects)?);
    Ok(if done.refused.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Documents one after the other, names before contents.
fn yaml(objects: &[Value]) -> anyhow::Result<String> {
    let texts: Result<Vec<String>, _> = objects.iter().map(serde_saphyr::to_string).collect();
    Ok(texts.context("write YAML")?.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_reads_back_as_the_same_objects() {
        let objects = vec![
            json!({"apiVersion": "v1", "kind": "A", "metadata": {"name": "a", "labels": {"version": "1.0", "on": "yes",
                "n": "null", "o": "0x1f", "e": "", "s": " a", "c": "a: b # c", "star": "*", "t": "true"}}}),
            json!({"spec": {"list": [{"regex": "^(.*?;)?(user=jason)(;.*)?$"}, [], {}], "port": 80, "share": 0.5,
                "lines": "a\nb\n", "none": null, "long": "x ".repeat(100)}}),
        ];
        let text = yaml(&objects).unwrap();
        let read: Vec<Value> = documents::parse("-", &text)
            .unwrap()
            .into_iter()
            .map(|d| d.object)
            .collect();
        assert_eq!(read, objects, "{text}");
    }
}
