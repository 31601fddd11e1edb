//! From a config to a recorded model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nvllm_core::{HfConfig, ModelSpec};
use nvllm_engine::registry;

/// The file that `config` names: one of the repository's shapes by name (`qwen3-0.6b`), or a path.
pub(crate) fn config_file(root: &Path, config: &str) -> Result<PathBuf> {
    let shapes = root.join("models/configs");
    let named = shapes.join(format!("{config}.json"));
    let given = Path::new(config);
    if named.is_file() {
        return Ok(named);
    }
    if given.is_file() {
        return Ok(given.into());
    }
    let mut names: Vec<_> = std::fs::read_dir(&shapes)
        .with_context(|| format!("cannot list {}", shapes.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    bail!("`{config}` is neither a file nor one of the known shapes: {}", names.join(", "))
}

/// Records the model that the text of a config.json describes.
pub(crate) fn record(text: &[u8]) -> Result<ModelSpec> {
    let config = HfConfig::parse(text)?;
    Ok((registry::family(&config)?.build)(&config)?)
}
