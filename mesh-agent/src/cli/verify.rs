//! `verify-bpf`: does this kernel take the programs, and at what cost?

use crate::bpf::Datapath;
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `text` or `json`.
    #[arg(long, short, default_value = "text")]
    output: super::Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let rows = Datapath::verifier_statistics()?;
    if args.output == super::Output::Json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, verified, bytes)| {
                serde_json::json!({"program": name, "verified_instructions": verified, "translated_bytes": bytes})
            })
            .collect();
        println!("{}", serde_json::to_string(&rows)?);
    } else {
        println!(
            "{:<18} {:>22} {:>17}",
            "PROGRAM", "VERIFIED INSTRUCTIONS", "TRANSLATED BYTES"
        );
        for (name, verified, bytes) in &rows {
            let verified = verified.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
            println!("{name:<18} {verified:>22} {bytes:>17}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
