//! Which files make up a model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nvllm_gguf::SplitName;
use serde_json::Value;

use super::diagnose::{self, no_weights, present};
use super::file_names::{
    BPE, CHAT_TEMPLATE, CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHT_INDEX, WEIGHTS,
    has_safetensors, unindexed,
};
use super::gguf::{self, GgufModel, Place};
use super::layout;
use super::name::HubId;
use crate::text::BpeFiles;
use crate::{EngineError, Result};

/// What is missing where no GGUF model is the one that is meant.
pub(super) const GGUF: &str = "single GGUF model";

/// The files of a model, all of them present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The directory that holds them; of a GGUF model in a folder of a repository, the snapshot.
    pub dir: PathBuf,
    /// Repository, revision and commit, if the model came from a hub.
    pub hub: Option<HubOrigin>,
    /// `config.json`: the architecture. Of a GGUF model, the file that holds everything.
    pub config: PathBuf,
    /// `generation_config.json`: defaults for sampling.
    pub generation_config: Option<PathBuf>,
    /// `tokenizer.json`. Absent from checkpoints that are used by token id only.
    pub tokenizer: Option<PathBuf>,
    /// `vocab.json` and `merges.txt`, where they are what there is instead of `tokenizer.json`.
    pub bpe: Option<BpeFiles>,
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

/// The files of a model's weights.
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
    /// All safetensors files of the directory, sorted: none has the usual name, and there is no
    /// index.
    Unindexed(Vec<PathBuf>),
    /// A GGUF file, or the parts of one in order. It holds the config, the tokenizer and the chat
    /// template too.
    Gguf(Vec<PathBuf>),
}

impl Weights {
    /// The files, without an index.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Single(path) => std::slice::from_ref(path),
            Self::Sharded { shards: paths, .. } | Self::Unindexed(paths) | Self::Gguf(paths) => paths,
        }
    }
}

impl ModelFiles {
    /// The files of a model in a directory: in the layout of a Hugging Face repository, or else as
    /// GGUF. Each is looked at: what a failed download left in its place is not taken for it.
    ///
    /// # Errors
    /// [`EngineError::MissingFile`] without `config.json` or weights, or with several GGUF models;
    /// [`EngineError::WrongFile`] for links to nothing, Git LFS pointers and web pages;
    /// [`EngineError::ReadFile`] for a directory that may not be entered; [`EngineError::Json`] or
    /// [`EngineError::Field`] for a weight index that cannot be used.
    pub fn in_directory(dir: &Path) -> Result<Self> {
        let names = names(dir)?;
        let models = gguf::models(names.iter().map(String::as_str));
        if has_safetensors(&names) {
            return Self::in_hf_layout(dir);
        }
        match gguf::choose(&models, None, Place::Directory).map_err(|problem| no_gguf(dir, problem))? {
            Some(model) => Self::gguf_in(dir, &model.files()),
            None => Self::in_hf_layout(dir),
        }
    }

    /// The model of a GGUF file, of which `path` may be any part. Its directory is not listed.
    ///
    /// # Errors
    /// As of [`in_directory`](Self::in_directory).
    pub fn gguf(path: &Path) -> Result<Self> {
        let (dir, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        match (name.to_str(), SplitName::of(Path::new(name))) {
            (_, Some(split)) => {
                let parts = (0..split.count).map(|no| split.part(no).to_string_lossy().into_owned());
                Self::gguf_in(dir, &parts.collect::<Vec<_>>())
            }
            (Some(name), None) => Self::gguf_in(dir, &[name.to_owned()]),
            (None, None) => Ok(Self::of_gguf(dir, vec![path.to_path_buf()])),
        }
    }

    /// The files of a repository's snapshot, of which `variant` names the GGUF file if it is one.
    /// What else the repository may hold is not known: the error says what is here.
    pub(super) fn in_snapshot(dir: &Path, variant: Option<&str>) -> Result<Self> {
        let names = names_below(dir)?;
        let models = gguf::models(names.iter().map(String::as_str));
        if variant.is_none() && (has_safetensors(&names) || models.is_empty()) {
            return Self::in_hf_layout(dir);
        }
        let chosen = gguf::choose(&models, variant, Place::Snapshot);
        let chosen = chosen.and_then(|found| found.ok_or("none of its GGUF files is cached".into()));
        Self::gguf_in(dir, &chosen.map_err(|problem| no_gguf(dir, problem))?.files())
    }

    /// The GGUF models of a snapshot.
    pub(super) fn gguf_models(dir: &Path) -> Vec<GgufModel> {
        gguf::models(names_below(dir).unwrap_or_default().iter().map(String::as_str))
    }

    /// Whether a snapshot has a model in the layout of a Hugging Face repository.
    pub(super) fn is_hf_layout(dir: &Path) -> bool {
        names_below(dir).is_ok_and(|names| has_safetensors(&names))
    }

    /// The GGUF model of these files, in order.
    pub(super) fn gguf_in(dir: &Path, names: &[String]) -> Result<Self> {
        let advice = match names.len() {
            1 => "copy or fetch it again".to_owned(),
            num => format!(
                "it is one of the {num} files of a model: put it beside the others, or fetch it again"
            ),
        };
        let missing = |file: &String| EngineError::MissingFile {
            dir: dir.into(),
            file: file.clone(),
            advice: advice.clone(),
        };
        let paths = names.iter().map(|name| present(dir, name)?.ok_or_else(|| missing(name)));
        Ok(Self::of_gguf(dir, paths.collect::<Result<_>>()?))
    }

    fn of_gguf(dir: &Path, paths: Vec<PathBuf>) -> Self {
        Self {
            dir: dir.to_path_buf(),
            hub: None,
            config: paths[0].clone(),
            generation_config: None,
            tokenizer: None,
            bpe: None,
            tokenizer_config: None,
            chat_template: None,
            weights: Weights::Gguf(paths),
        }
    }

    fn in_hf_layout(dir: &Path) -> Result<Self> {
        let missing = |file: &str, advice: &str| EngineError::MissingFile {
            dir: dir.to_path_buf(),
            file: file.to_owned(),
            advice: advice.to_owned(),
        };
        let present = |file: &str| present(dir, file);
        let Some(config) = present(CONFIG)? else {
            return Err(missing(CONFIG, &no_config(dir)?));
        };
        let weights = if let Some(path) = present(WEIGHTS)? {
            Weights::Single(path)
        } else if let Some(index) = present(WEIGHT_INDEX)? {
            let mut shards = Vec::new();
            for name in shard_names(&index)? {
                let advice = format!("{WEIGHT_INDEX} names it: copy or fetch it again");
                shards.push(present(&name)?.ok_or_else(|| missing(&name, &advice))?);
            }
            Weights::Sharded { index, shards }
        } else {
            let names = names(dir)?;
            let found = unindexed(&names);
            if found.is_empty() {
                return Err(missing(WEIGHTS, &no_weights(&names)));
            }
            let paths = found.into_iter().map(present).collect::<Result<Vec<_>>>()?;
            Weights::Unindexed(paths.into_iter().flatten().collect())
        };
        Ok(Self {
            dir: dir.to_path_buf(),
            hub: None,
            config,
            generation_config: present(GENERATION_CONFIG)?,
            bpe: bpe(&present, present(TOKENIZER)?.is_some())?,
            tokenizer: present(TOKENIZER)?,
            tokenizer_config: present(TOKENIZER_CONFIG)?,
            chat_template: present(CHAT_TEMPLATE)?,
            weights,
        })
    }
}

/// The files of a tokenizer without `tokenizer.json`.
fn bpe(present: &impl Fn(&str) -> Result<Option<PathBuf>>, has_tokenizer: bool) -> Result<Option<BpeFiles>> {
    let [vocab, merges, added_tokens, special_tokens_map] = BPE.map(present);
    Ok(match (vocab?, merges?) {
        (Some(vocab), Some(merges)) if !has_tokenizer => Some(BpeFiles {
            vocab,
            merges,
            added_tokens: added_tokens?,
            special_tokens_map: special_tokens_map?,
        }),
        _ => None,
    })
}

/// That no GGUF model of a directory is the one that is meant.
fn no_gguf(dir: &Path, problem: String) -> EngineError {
    EngineError::MissingFile { dir: dir.to_path_buf(), file: GGUF.into(), advice: problem }
}

/// The files of a snapshot, with their folders.
fn names_below(dir: &Path) -> Result<BTreeSet<String>> {
    // What may not be entered is an error here, and below is as if it were empty.
    let mut all = names(dir)?;
    let files = layout::files_below(dir);
    let below = files.iter().filter_map(|path| path.strip_prefix(dir).ok());
    all.extend(below.map(|name| name.to_string_lossy().replace('\\', "/")));
    Ok(all)
}

/// What a directory holds; nothing, if there is none.
fn names(dir: &Path) -> Result<BTreeSet<String>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(cause) => Err(EngineError::ReadFile { path: dir.to_path_buf(), cause }),
    }
}

/// Why a directory without config.json is no model: what it holds instead, or which directory under
/// it was meant.
fn no_config(dir: &Path) -> Result<String> {
    let names = names(dir)?;
    let has_config = |path: PathBuf| path.join(CONFIG).is_file().then_some(path);
    // A repository's directory in the hub's cache holds its models by commit.
    let snapshots = dir.join("snapshots");
    let below =
        std::fs::read_dir(&snapshots).or_else(|_| std::fs::read_dir(dir)).into_iter().flatten().flatten();
    let mut models: Vec<PathBuf> = below.filter_map(|entry| has_config(entry.path())).collect();
    models.sort();
    Ok(match models.first() {
        Some(model) => format!("did you mean {}?", model.display()),
        None => diagnose::no_config(&names),
    })
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
    /// Known by name.
    Files(Vec<String>),
    /// A GGUF file, or its parts.
    Gguf(Vec<String>),
    /// The shards are known once the index is here.
    Index(&'static str),
}

/// Chooses among the files of a repository.
pub(super) fn needed(id: &HubId, files: &BTreeSet<String>) -> Result<Plan> {
    let refused = |problem: String| EngineError::HubRefused { what: id.to_string(), problem };
    if id.variant().is_some() || !has_safetensors(files) {
        let models = gguf::models(files.iter().map(String::as_str));
        match gguf::choose(&models, id.variant(), Place::Repository).map_err(refused)? {
            Some(model) => {
                let parts = model.files();
                if let Some(part) = parts.iter().find(|part| !files.contains(*part)) {
                    return Err(refused(format!("it lacks {part}, which {} belongs to", model.first())));
                }
                return Ok(Plan { small_files: Vec::new(), weights: PlannedWeights::Gguf(parts) });
            }
            None if id.variant().is_some() => return Err(refused("it holds no GGUF file".into())),
            None => {}
        }
    }
    if !files.contains(CONFIG) {
        return Err(refused(format!("it has no {CONFIG}: {}", diagnose::no_config(files))));
    }
    let optional = [GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE];
    let mut small_files = vec![CONFIG];
    // Where tokenizer.json is there, these say nothing more.
    let bpe = BPE.into_iter().filter(|_| !files.contains(TOKENIZER));
    small_files.extend(optional.into_iter().chain(bpe).filter(|file| files.contains(*file)));
    let weights = if files.contains(WEIGHTS) {
        PlannedWeights::Files(vec![WEIGHTS.into()])
    } else if files.contains(WEIGHT_INDEX) {
        small_files.push(WEIGHT_INDEX);
        PlannedWeights::Index(WEIGHT_INDEX)
    } else {
        let found = unindexed(files);
        if found.is_empty() {
            return Err(refused(format!("it has no {WEIGHTS}: {}", no_weights(files))));
        }
        PlannedWeights::Files(found.into_iter().map(String::from).collect())
    };
    Ok(Plan { small_files, weights })
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
    fn a_tokenizer_in_parts_counts_where_there_is_no_whole() {
        let parts = ["vocab.json", "merges.txt", "special_tokens_map.json"].map(|file| (file, "{}"));
        let model = [(CONFIG, "{}"), (WEIGHTS, "")];
        let dir = directory(&[&model[..], &parts].concat());
        let bpe = ModelFiles::in_directory(dir.path()).unwrap().bpe.unwrap();
        let found: Vec<_> = bpe.paths().map(Path::to_path_buf).collect();
        assert_eq!(found, parts.map(|(file, _)| dir.path().join(file)));
        let dir = directory(&[&model[..], &parts, &[(TOKENIZER, "")]].concat());
        assert_eq!(ModelFiles::in_directory(dir.path()).unwrap().bpe, None);
        let dir = directory(&[&model[..], &parts[..1]].concat());
        assert_eq!(ModelFiles::in_directory(dir.path()).unwrap().bpe, None);
        // Of a repository the parts are fetched where they are needed.
        let fetched = |files: &[&str]| {
            let files = files.iter().copied().chain([CONFIG, WEIGHTS]).map(String::from).collect();
            needed(&HubId::parse("a/b").unwrap(), &files).unwrap().small_files
        };
        assert_eq!(fetched(&["vocab.json", "merges.txt"]), [CONFIG, "vocab.json", "merges.txt"]);
        assert_eq!(fetched(&["vocab.json", "merges.txt", TOKENIZER]), [CONFIG, TOKENIZER]);
    }

    #[test]
    fn weights_under_other_names() {
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let other = ["consolidated.safetensors", "adapter_model.safetensors"];
        let files: Vec<_> = [CONFIG].into_iter().chain(names).chain(other).map(|name| (name, "x")).collect();
        let dir = directory(&files);
        let found = ModelFiles::in_directory(dir.path()).unwrap().weights;
        assert_eq!(found, Weights::Unindexed(names.map(|name| dir.path().join(name)).into()));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            error(&[]),
            "DIR has no config.json: a model has the layout of a Hugging Face repository, or is a GGUF file"
        );
        assert_eq!(
            error(&[(CONFIG, "")]),
            "DIR has no model.safetensors: there is no model.safetensors.index.json either"
        );
        for (files, words) in [
            (&["config.json", "pytorch_model.bin"][..], "not from pickled files (pytorch_model.bin)"),
            (&["config.json", "consolidated.safetensors"], "not from consolidated.safetensors"),
            (&["config.json", "adapter_model.safetensors"], "not from an adapter"),
            (&["adapter_config.json"], "has no config.json: it holds an adapter"),
        ] {
            let files: Vec<_> = files.iter().map(|name| (*name, "{}")).collect();
            let message = error(&files);
            assert!(message.contains(words), "{message}");
        }
        let index = r#"{"weight_map":{"x":"a.safetensors"}}"#;
        let message = error(&[(CONFIG, ""), (WEIGHT_INDEX, index)]);
        assert!(
            message.starts_with("DIR has no a.safetensors: model.safetensors.index.json names it"),
            "{message}"
        );
    }

    #[test]
    fn what_is_not_the_file_is_named() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        let page = "<!DOCTYPE html><html><body>Sign in</body></html>";
        let index = r#"{"weight_map":{"x":"a.safetensors"}}"#;
        let complete = [(CONFIG, "{}"), (WEIGHTS, "x"), (TOKENIZER, "{}"), (GENERATION_CONFIG, "{}")];
        for at in 0..complete.len() {
            for (content, words) in [(pointer, "is a Git LFS pointer"), (page, "is a web page")] {
                let mut files = complete;
                files[at].1 = content;
                let message = error(&files);
                assert!(message.starts_with(&format!("DIR/{} {words}", complete[at].0)), "{message}");
            }
        }
        let message = error(&[(CONFIG, "{}"), (WEIGHT_INDEX, index), ("a.safetensors", pointer)]);
        assert!(message.starts_with("DIR/a.safetensors is a Git LFS pointer"), "{message}");
        let message = error(&[(CONFIG, "{}"), (WEIGHT_INDEX, pointer)]);
        assert!(message.starts_with("DIR/model.safetensors.index.json is a Git LFS pointer"), "{message}");
    }

    #[test]
    #[cfg(unix)]
    fn links_to_nothing_and_directories_are_no_files() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let open = |dir: &tempfile::TempDir| {
            let message = ModelFiles::in_directory(dir.path()).unwrap_err().to_string();
            message.replace(&dir.path().display().to_string(), "DIR")
        };
        let dir = directory(&[(CONFIG, "{}")]);
        symlink("../../blobs/abc", dir.path().join(WEIGHTS)).unwrap();
        let message = open(&dir);
        assert!(
            message.starts_with("DIR/model.safetensors is a link to ../../blobs/abc, which does not exist"),
            "{message}"
        );
        std::fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
        std::fs::create_dir(dir.path().join(WEIGHTS)).unwrap();
        assert_eq!(open(&dir), "DIR/model.safetensors is a directory, not a file");

        // What the system refuses is said in its words.
        let dir = directory(&[]);
        symlink(CONFIG, dir.path().join(CONFIG)).unwrap();
        let message = open(&dir);
        assert!(message.starts_with("cannot read DIR/config.json: "), "{message}");
        let dir = directory(&[(CONFIG, "{}")]);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o000)).unwrap();
        if std::fs::read_dir(dir.path()).is_err() {
            let message = open(&dir);
            assert!(message.starts_with("cannot read DIR/config.json: Permission denied"), "{message}");
        } else {
            eprintln!("skipped in part: this user may enter any directory");
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn the_directory_that_was_meant() {
        let dir = directory(&[]);
        for (below, hint) in [("a-model", "a-model"), ("snapshots/0123", "snapshots/0123")] {
            let model = dir.path().join(below);
            std::fs::create_dir_all(&model).unwrap();
            std::fs::write(model.join(CONFIG), "{}").unwrap();
            let message = ModelFiles::in_directory(dir.path()).unwrap_err().to_string();
            let hint = dir.path().join(hint);
            assert!(
                message.ends_with(&format!("config.json: did you mean {}?", hint.display())),
                "{message}"
            );
        }
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
