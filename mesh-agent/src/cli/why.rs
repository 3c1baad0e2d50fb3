//! `why`: the path of a connection or request, explained by the code that decides it.

use super::Output;
use super::ask::{Agent, Place, block_on};
use anyhow::Context;
use http::Method;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pod that connects: `namespace/pod`. Of a gateway, its pod, Gateway or Deployment: then it is told what becomes of
    /// what a client sends to it.
    source: String,
    /// What it dials: a host name as the pod would use it, or an address; with `:port` (default 80).
    destination: String,
    /// Path and query of the request.
    #[arg(long, default_value = "/")]
    path: String,
    /// Method of the request.
    #[arg(long, default_value = "GET")]
    method: String,
    /// A header field of the request, `Name: value`; may be given again.
    #[arg(long = "header", short = 'H')]
    headers: Vec<String>,
    /// Server name of a TLS connection that is passed through, in place of a request; at a gateway, the one that a client
    /// sends, where it is not the host.
    #[arg(long)]
    sni: Option<String>,
    #[command(flatten)]
    agent: Agent,
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

impl Args {
    /// The same question as a command line.
    fn again(&self) -> Vec<String> {
        let mut words = vec![
            "why".to_owned(),
            format!("--path={}", self.path),
            format!("--method={}", self.method),
        ];
        words.extend(self.headers.iter().map(|header| format!("--header={header}")));
        words.extend(self.sni.iter().map(|sni| format!("--sni={sni}")));
        words.extend(["--".to_owned(), self.source.clone(), self.destination.clone()]);
        words
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut headers = Map::new();
    for header in &args.headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("--header {header:?}: write `Name: value`"))?;
        headers.insert(name.trim().to_owned(), json!(value.trim()));
    }
    let question = json!({
        "source": args.source, "destination": args.destination,
        "path": args.path, "method": args.method, "headers": headers, "sni": args.sni,
    });
    let answer = block_on(async {
        match args.agent.place().await? {
            Place::Here => args.agent.ask(Method::POST, "/why", Some(&question)).await,
            Place::Cluster(fleet) => {
                let member = fleet.who_decides_for(&args.source).await?;
                fleet.ask(&member, &args.again()).await
            }
        }
    })?;
    match args.output {
        Output::Json => println!("{answer}"),
        Output::Text => {
            for (number, step) in answer["steps"]
                .as_array()
                .map_or(&[][..], Vec::as_slice)
                .iter()
                .enumerate()
            {
                println!(
                    "{:>2}. {}",
                    number + 1,
                    step.as_str().unwrap_or(&Value::to_string(step))
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
