//! Which files make up a model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::name::HubId;
use crate::{EngineError, Result};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const WEIGHTS: &str = "model.safetensors";
const WEIGHT_INDEX: &str = "model.safetensors.index.json";

/// The files of a model, all of them present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The directory that holds them.
    pub dir: PathBuf,
    /// Repository, revision and commit, if the model came from a hub.
    pub hub: Option<HubOrigin>,
    /// `config.json`: the architecture.
    pub config: PathBuf,
    /// `generation_config.json`: defaults for sampling.
    pub generation_config: Option<PathBuf>,
    /// `tokenizer.json`. Absent from checkpoints that are used by token id only.
    pub tokenizer: Option<PathBuf>,
    /// `tokenizer_config.json`: special tokens, chat template.
    pub tokenizer_config: Option<PathBuf>,
    /// `chat_template.jinja`, which goes before the template in `tokenizer_config.json`.
    pub chat_template: Option<PathBuf>,
    /// The weights.
    pub weights: Weights,
}

/// Where a fetched model came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubOrigin {
    /// What was asked for.
    pub id: HubId,
    /// The commit that it was.
    pub commit: String,
}

/// The safetensors of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// One file.
    Single(PathBuf),
    /// Several files and the index that says which tensor is where.
    Sharded {
        /// `model.safetensors.index.json`.
        index: PathBuf,
        /// The files it names, sorted.
        shards: Vec<PathBuf>,
    },
}

impl Weights {
    /// The safetensors files.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Single(path) => std::slice::from_ref(path),
            Self::Sharded { shards, .. } => shards,
        }
    }
}

impl ModelFiles {
    /// The files of a model in a directory.
    ///
    /// # Errors
    /// [`EngineError::MissingFile`] without `config.json` or weights; [`EngineError::Json`] or [`EngineError::Field`] for a
    /// weight index that cannot be used.
    pub fn in_directory(dir: &Path) -> Result<Self> {
        let present = |file: &str| Some(dir.join(file)).filter(|path| path.is_file());
        let missing = |file: &str, advice: &str| EngineError::MissingFile {
            dir: dir.to_path_buf(),
            file: file.to_owned(),
            advice: advice.to_owned(),
        };
        let config = present(CONFIG).ok_or_else(|| {
            missing(CONFIG, "a model directory has the layout of a Hugging Face repository")
        })?;
        let weights = if let Some(path) = present(WEIGHTS) {
            Weights::Single(path)
        } else if let Some(index) = present(WEIGHT_INDEX) {
            let names = shard_names(&index)?;
            if let Some(absent) = names.iter().find(|name| present(name).is_none()) {
                return Err(missing(absent, &format!("{WEIGHT_INDEX} names it: copy or fetch it again")));
            }
            Weights::Sharded { index, shards: names.iter().map(|name| dir.join(name)).collect() }
        } else {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let names: BTreeSet<String> =
                entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            return Err(missing(WEIGHTS, &no_weights(&names)));
        };
        Ok(Self {
            dir: dir.to_path_buf(),
            hub: None,
            config,
            generation_config: present(GENERATION_CONFIG),
            tokenizer: present(TOKENIZER),
            tokenizer_config: present(TOKENIZER_CONFIG),
            chat_template: present(CHAT_TEMPLATE),
            weights,
        })
    }
}

/// What to fetch of a repository.
#[derive(Debug)]
pub(super) struct Plan {
    /// Configuration, tokenizer, and the weight index if there is one.
    pub(super) small_files: Vec<&'static str>,
    pub(super) weights: PlannedWeights,
}

#[derive(Debug)]
pub(super) enum PlannedWeights {
    Single(&'static str),
    /// The shards are known once the index is here.
    Index(&'static str),
}

/// Chooses among the files of a repository.
pub(super) fn needed(id: &HubId, files: &BTreeSet<String>) -> Result<Plan> {
    let refused = |problem: String| EngineError::HubRefused { what: id.to_string(), problem };
    if !files.contains(CONFIG) {
        return Err(refused(format!("it has no {CONFIG}, so it is not a model of this kind")));
    }
    let optional = [GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE];
    let mut small_files = vec![CONFIG];
    small_files.extend(optional.into_iter().filter(|file| files.contains(*file)));
    let weights = if files.contains(WEIGHTS) {
        PlannedWeights::Single(WEIGHTS)
    } else if files.contains(WEIGHT_INDEX) {
        small_files.push(WEIGHT_INDEX);
        PlannedWeights::Index(WEIGHT_INDEX)
    } else {
        return Err(refused(format!("it has no {WEIGHTS}: {}", no_weights(files))));
    };
    Ok(Plan { small_files, weights })
}

fn no_weights(files: &BTreeSet<String>) -> String {
    let other = [".bin", ".pt", ".pth", ".gguf", ".safetensors", ".onnx", ".h5"];
    match files.iter().find(|file| other.iter().any(|end| file.ends_with(end))) {
        Some(file) => {
            format!("weights are read from {WEIGHTS} or {WEIGHT_INDEX} and its shards, not from {file}")
        }
        None => format!("there is no {WEIGHT_INDEX} either"),
    }
}

/// The safetensors files that a weight index names, sorted.
pub(super) fn shard_names(index: &Path) -> Result<Vec<String>> {
    let bytes =
        std::fs::read(index).map_err(|cause| EngineError::ReadFile { path: index.to_path_buf(), cause })?;
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|cause| EngineError::Json { path: index.to_path_buf(), cause })?;
    let wrong = |problem: String| EngineError::field(index, "weight_map", problem);
    let Some(map) = json["weight_map"].as_object().filter(|map| !map.is_empty()) else {
        return Err(wrong("must map tensor names to file names".into()));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let plain = |name: &&str| {
            name.ends_with(".safetensors") && !name.contains(['/', '\\', ':']) && !name.starts_with('.')
        };
        let Some(name) = file.as_str().filter(plain) else {
            return Err(wrong(format!(
                "maps {tensor} to {file}; expected the name of a safetensors file beside the index"
            )));
        };
        names.insert(name.to_owned());
    }
    Ok(names.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    fn error(files: &[(&str, &str)]) -> String {
        let dir = directory(files);
        let message = ModelFiles::in_directory(dir.path()).unwrap_err().to_string();
        message.replace(&dir.path().display().to_string(), "DIR")
    }

    #[test]
    fn one_file_or_shards() {
        let dir = directory(&[(CONFIG, "{}"), (WEIGHTS, ""), (TOKENIZER, ""), (WEIGHT_INDEX, "not read")]);
        let files = ModelFiles::in_directory(dir.path()).unwrap();
        assert_eq!(files.weights, Weights::Single(dir.path().join(WEIGHTS)));
        assert_eq!((files.tokenizer, files.chat_template), (Some(dir.path().join(TOKENIZER)), None));

        let index =
            r#"{"metadata":{},"weight_map":{"x":"b.safetensors","y":"a.safetensors","z":"b.safetensors"}}"#;
        let dir =
            directory(&[(CONFIG, ""), (WEIGHT_INDEX, index), ("a.safetensors", ""), ("b.safetensors", "")]);
        let files = ModelFiles::in_directory(dir.path()).unwrap();
        assert_eq!(
            files.weights.paths(),
            [dir.path().join("a.safetensors"), dir.path().join("b.safetensors")]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            error(&[]),
            "DIR has no config.json: a model directory has the layout of a Hugging Face repository"
        );
        assert_eq!(
            error(&[(CONFIG, "")]),
            "DIR has no model.safetensors: there is no model.safetensors.index.json either"
        );
        let message = error(&[(CONFIG, ""), ("pytorch_model.bin", "")]);
        assert!(message.ends_with("and its shards, not from pytorch_model.bin"), "{message}");
        let index = r#"{"weight_map":{"x":"a.safetensors"}}"#;
        let message = error(&[(CONFIG, ""), (WEIGHT_INDEX, index)]);
        assert!(
            message.starts_with("DIR has no a.safetensors: model.safetensors.index.json names it"),
            "{message}"
        );
    }

    #[test]
    fn an_index_cannot_point_elsewhere() {
        for (index, problem) in [
            ("{}", "must map tensor names"),
            (r#"{"weight_map":{}}"#, "must map tensor names"),
            (r#"{"weight_map":{"x":1}}"#, "maps x to 1; expected"),
            (r#"{"weight_map":{"x":"../a.safetensors"}}"#, "expected the name of a safetensors file"),
            (r#"{"weight_map":{"x":"/etc/a.safetensors"}}"#, "expected the name of a safetensors file"),
            (r#"{"weight_map":{"x":"a.bin"}}"#, "expected the name of a safetensors file"),
            ("[", "not valid JSON"),
        ] {
            let message = error(&[(CONFIG, ""), (WEIGHT_INDEX, index)]);
            assert!(
                message.starts_with("DIR/model.safetensors.index.json") && message.contains(problem),
                "{message}"
            );
        }
    }
}
