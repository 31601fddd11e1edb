//! `nvllm list`: the models that are here.

use anyhow::Result;
use clap::Args;
use nvllm_engine::EngineError;
use nvllm_engine::hub::{self, CachedModel, CachedRevision};
use serde_json::{Value, json};

use crate::output::{note, outln};
use crate::{built_in, environment, human};

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm list
  nvllm list --json | jq -r '.models[].model'

Lists the embedded demo and what the Hugging Face hub's cache holds, whichever program fetched it:
each revision, and each GGUF file by the name that it is run by.")]
pub(crate) struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &List) -> Result<()> {
    let cache_dir = environment::hub_cache()?;
    let models = hub::list(&cache_dir);
    if args.json {
        let all: Vec<_> = built_in_json()?.into_iter().chain(models.iter().map(model_json)).collect();
        outln!("{:#}", json!({ "cache_dir": cache_dir, "models": all }))?;
        return Ok(());
    }
    let mut rows = vec![["MODEL", "REVISION", "SIZE", "ARCHITECTURE"].map(str::to_owned)];
    if built_in::HAS_MODEL {
        let demo = built_in::open()?;
        let size = human::bytes(demo.weight_bytes()?);
        rows.push([built_in::NAME.into(), "in this program".into(), size, demo.architecture]);
    }
    for model in &models {
        rows.extend(model.revisions.iter().flat_map(|revision| revision_rows(model, revision)));
        if model.revisions.is_empty() {
            let size = human::bytes(model.incomplete_bytes);
            rows.push([model.id.clone(), "-".into(), size, "incomplete: pull it again".into()]);
        }
    }
    print(&rows)?;
    let shown = cache_dir.display();
    match models.len() {
        0 => note!("no models in the cache at {shown}: fetch one with nvllm pull org/name"),
        _ => note!("the cache is at {shown}"),
    }
    Ok(())
}

/// A row for the model in the repository's layout, if there is one, and for each GGUF model.
fn revision_rows(model: &CachedModel, revision: &CachedRevision) -> Vec<[String; 4]> {
    let refs = revision.refs.join(", ");
    let commit = short(&revision.commit);
    let revisions = if refs.is_empty() { commit.to_owned() } else { format!("{refs} ({commit})") };
    let row = |name: String, bytes: u64, architecture: &Result<String, EngineError>| {
        let architecture = match architecture {
            Ok(architecture) => architecture.clone(),
            Err(e) => format!("cannot run: {}", problem(revision, e)),
        };
        [name, revisions.clone(), human::bytes(bytes), architecture]
    };
    let gguf_bytes: u64 = revision.variants.iter().map(|variant| variant.bytes).sum();
    let own_bytes = revision.bytes.saturating_sub(gguf_bytes);
    let own = revision.architecture.iter().map(|found| row(model.id.clone(), own_bytes, found));
    let variants = revision.variants.iter();
    own.chain(variants.map(|variant| {
        let name = format!("{}:{}", model.id, variant.name);
        row(name, variant.bytes, &variant.architecture)
    }))
    .collect()
}

/// Why something of a revision cannot be run, without the directory that every row's message would
/// begin with.
fn problem(revision: &CachedRevision, error: &EngineError) -> String {
    let dir = revision.dir.display();
    let message = error.to_string().replace(&format!("{dir}/"), "").replace(&format!("{dir}: "), "");
    message.replace(&dir.to_string(), "it")
}

/// The first digits of a commit, as many as git and the hub show.
pub(super) fn short(commit: &str) -> &str {
    commit.get(..8).unwrap_or(commit)
}

/// Columns as wide as their widest cell; the last is as long as it is.
fn print(rows: &[[String; 4]]) -> Result<()> {
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (a, b, c) = (width(0), width(1), width(2));
    for [model, revision, size, architecture] in &rows {
        outln!("{model:a$}  {revision:b$}  {size:>c$}  {architecture}")?;
    }
    Ok(())
}

/// A name that others gave, without what a terminal would act on.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

fn built_in_json() -> Result<Option<Value>> {
    if !built_in::HAS_MODEL {
        return Ok(None);
    }
    let demo = built_in::open()?;
    let (bytes, architecture) = (demo.weight_bytes()?, demo.architecture);
    Ok(Some(json!({
        "model": built_in::NAME,
        "embedded": true,
        "bytes": bytes,
        "revisions": [{ "commit": null, "refs": [], "path": null, "bytes": bytes, "architecture": architecture, "problem": null, "variants": [] }],
    })))
}

fn model_json(model: &CachedModel) -> Value {
    let revisions = model.revisions.iter().map(|revision| {
        let problem =
            |found: &Result<String, EngineError>| found.as_ref().err().map(|e| problem(revision, e));
        let variants = revision.variants.iter().map(|variant| {
            json!({
                "variant": variant.name,
                "path": revision.dir.join(&variant.file),
                "bytes": variant.bytes,
                "architecture": variant.architecture.as_ref().ok(),
                "problem": problem(&variant.architecture),
            })
        });
        let found = revision.architecture.as_ref();
        json!({
            "commit": revision.commit,
            "refs": revision.refs,
            "path": revision.dir,
            "bytes": revision.bytes,
            "architecture": found.and_then(|found| found.as_ref().ok()),
            "problem": found.and_then(problem),
            "variants": variants.collect::<Vec<_>>(),
        })
    });
    json!({
        "model": model.id,
        "embedded": false,
        "bytes": model.bytes,
        "incomplete_bytes": model.incomplete_bytes,
        "revisions": revisions.collect::<Vec<_>>(),
    })
}
