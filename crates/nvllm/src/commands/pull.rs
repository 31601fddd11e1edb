//! `nvllm pull`: fetch what is needed to run a model.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use nvllm_engine::Model;
use nvllm_engine::hub::{ModelFiles, Weights};
use serde_json::json;

use crate::output::{note, outln};
use crate::{built_in, human, models};

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm pull Qwen/Qwen3-0.6B
  nvllm pull https://huggingface.co/Qwen/Qwen3-0.6B/tree/main
  nvllm pull Qwen/Qwen3-0.6B-GGUF:Q8_0

Prints the model's directory in the Hugging Face hub's cache, or its GGUF file there: what other
commands take as a model. What is there is not fetched again.")]
pub(crate) struct Pull {
    /// A hub id (org/name, org/name:TYPE for a GGUF file of it, both also with @revision), or the
    /// address of its page.
    #[arg(value_name = "MODEL", required_unless_present = "model")]
    positional: Option<String>,
    /// The same as an option.
    #[arg(short, long, value_name = "MODEL", conflicts_with = "positional")]
    model: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Pull) -> Result<()> {
    let name = args.positional.as_deref().or(args.model.as_deref()).unwrap_or_default();
    if models::is_built_in(name) {
        note!("{} is part of this program: there is nothing to fetch", built_in::NAME);
        if args.json {
            outln!("{:#}", json!({ "model": built_in::NAME, "embedded": true }))?;
        }
        return Ok(());
    }
    if Path::new(name).is_dir() {
        bail!(
            "{name} is a directory here: there is nothing to fetch; hf://{name} is a model of that name on the hub"
        );
    }
    let files = models::find(name)?;
    let architecture = Model::check(&files)?;
    let paths = paths(&files);
    let bytes: u64 = paths.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
    // Whatever is fetched comes from a hub.
    let Some(origin) = &files.hub else { bail!("{name} is not on a hub") };
    if args.json {
        let report = json!({
            "model": origin.id.repo(),
            "variant": origin.id.variant(),
            "revision": origin.id.revision(),
            "commit": origin.commit,
            "architecture": architecture,
            "path": path(&files),
            "files": paths.len(),
            "bytes": bytes,
        });
        outln!("{report:#}")?;
        return Ok(());
    }
    let commit = super::list::short(&origin.commit);
    let files_here = human::count(paths.len(), "file");
    note!("{} ({commit}): {architecture}, {}, {files_here}", origin.id, human::bytes(bytes));
    outln!("{}", path(&files).display())?;
    Ok(())
}

/// What names the model as a path: its directory, or of a GGUF model its first file, for there may
/// be others in the directory.
fn path(files: &ModelFiles) -> &Path {
    match &files.weights {
        Weights::Gguf(parts) => &parts[0],
        _ => &files.dir,
    }
}

/// All files of a model.
fn paths(files: &ModelFiles) -> Vec<&Path> {
    let index = match &files.weights {
        Weights::Sharded { index, .. } => Some(index),
        _ => None,
    };
    let optional =
        [&files.generation_config, &files.tokenizer, &files.tokenizer_config, &files.chat_template];
    let optional = optional.into_iter().flatten().chain(index);
    // A GGUF file is its own config.
    let config = [&files.config].into_iter().filter(|path| !files.weights.paths().contains(path));
    let all = config.chain(optional).chain(files.weights.paths());
    let bpe = files.bpe.iter().flat_map(nvllm_engine::text::BpeFiles::paths);
    all.map(std::path::PathBuf::as_path).chain(bpe).collect()
}
