//! `nvllm rm`: remove fetched models.

use anyhow::{Result, bail};
use clap::Args;
use nvllm_engine::hub;
use serde_json::{Value, json};

use crate::output::outln;
use crate::{built_in, environment, human, models};

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm rm Qwen/Qwen3-0.6B
  nvllm rm Qwen/Qwen3-0.6B@main

Only what the Hugging Face hub's cache holds is removed; files that other revisions use stay.
Single GGUF files (org/name:TYPE) are removed with their repository or revision.")]
pub(crate) struct Rm {
    /// Models to remove (org/name), or single revisions (org/name@revision: branch, tag or commit).
    #[arg(value_name = "MODEL", required_unless_present = "model")]
    positional: Vec<String>,
    /// The same as an option.
    #[arg(short, long, value_name = "MODEL")]
    model: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Rm) -> Result<()> {
    let options = environment::hub_options()?;
    let mut reports = Vec::new();
    for name in args.positional.iter().chain(&args.model) {
        if models::is_built_in(name) {
            bail!("{} is part of this program and not in the cache: it cannot be removed", built_in::NAME);
        }
        let removed = hub::remove(name, &options)?;
        if args.json {
            reports.push(json!({
                "model": removed.id,
                "commits": removed.commits,
                "whole": removed.whole,
                "bytes_freed": removed.bytes,
            }));
            continue;
        }
        let commits: Vec<_> = removed.commits.iter().map(|commit| super::list::short(commit)).collect();
        let what = if removed.whole { removed.id } else { format!("{}@{}", removed.id, commits.join(", ")) };
        outln!("removed {what}: {} freed", human::bytes(removed.bytes))?;
    }
    if args.json {
        outln!("{:#}", Value::from(reports))?;
    }
    Ok(())
}
