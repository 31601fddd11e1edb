//! A GGUF model as the files of a Hugging Face repository, for whatever reads no GGUF.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;

use nvllm_core::weight::Dequantized;
use nvllm_core::{CoreError, DType, WeightSource};
use nvllm_gguf::Gguf;
use safetensors::tensor::{Dtype, View};
use serde_json::Value;

use super::{sampling, vocabulary};
use crate::checkpoint::Checkpoint;
use crate::hub::{ModelFiles, Weights};
use crate::text::GgufVocabulary;
use crate::{EngineError, LoadProgress, Result};

/// Writes the GGUF model of `files` into the directory `out`, which is made and has to be empty.
/// Coded weights are expanded, in f32, and stored as `dtype`; others stay as they are. `progress`
/// is called with bytes of weights. Returns why there is no `tokenizer.json`, if the file has a
/// tokenizer that cannot be used.
///
/// What is not a matter of form stays behind: metadata that describe the file and change nothing.
///
/// # Errors
/// Those of [`Model::open`](crate::Model::open); [`EngineError::ModelName`] if it is no GGUF model;
/// [`EngineError::WriteFile`] if `out` holds files or cannot be written. What was written is
/// removed.
pub fn convert(
    files: &ModelFiles,
    out: &Path,
    dtype: DType,
    progress: &dyn Fn(LoadProgress),
) -> Result<Option<String>> {
    let Weights::Gguf(paths) = &files.weights else {
        let problem = "it is no GGUF file, and only those are converted".into();
        return Err(EngineError::ModelName { model: files.dir.display().to_string(), problem });
    };
    let (gguf, checkpoint) = super::checkpoint(&paths[0])?;
    let vocabulary = vocabulary::read(gguf.metadata())?;
    let (texts, unread_tokenizer) = json_files(&gguf, &checkpoint, vocabulary.as_ref(), dtype)?;
    make_empty(out)?;
    // The weights first: a directory that has config.json is whole.
    let written = write_weights(&out.join(WEIGHTS), &checkpoint, dtype, progress)
        .and_then(|()| texts.iter().try_for_each(|(file, value)| write_json(out, file, value)));
    if let Err(error) = written {
        for file in texts.iter().map(|(file, _)| *file).chain([WEIGHTS]) {
            let _ = std::fs::remove_file(out.join(file));
        }
        return Err(error);
    }
    Ok(unread_tokenizer)
}

const WEIGHTS: &str = "model.safetensors";

/// Files by their names, in the order in which they are written.
type JsonFiles = Vec<(&'static str, Value)>;

/// All files but the weights, config.json last; and why no tokenizer is among them, if it cannot be
/// used.
fn json_files(
    gguf: &Gguf,
    checkpoint: &Checkpoint,
    vocabulary: Option<&GgufVocabulary>,
    dtype: DType,
) -> Result<(JsonFiles, Option<String>)> {
    let mut config = checkpoint.config.clone().with("torch_dtype", name(stored(checkpoint, dtype)?));
    let ends = vocabulary.map(GgufVocabulary::end_token_ids).unwrap_or_default();
    let generation = sampling::generation_config(gguf.metadata(), &ends)?;
    let mut texts = vec![("generation_config.json", generation)];
    let mut unread = None;
    if let Some(vocabulary) = vocabulary {
        config = config.with("bos_token_id", vocabulary.begin_token_id()).with("eos_token_id", ends);
        match vocabulary.tokenizer_json(gguf.metadata().path()) {
            Ok(tokenizer) => {
                let mut config = vocabulary.tokenizer_config();
                // The class that takes tokenizer.json as it is.
                config["tokenizer_class"] = "PreTrainedTokenizerFast".into();
                texts.extend([("tokenizer.json", tokenizer), ("tokenizer_config.json", config)]);
            }
            Err(EngineError::Tokenizer { problem, .. }) => unread = Some(problem),
            Err(other) => return Err(other),
        }
    }
    texts.push(("config.json", config.to_json()));
    Ok((texts, unread))
}

/// The dtype of most of what is written: `dtype`, if any of it was coded, else the file's own.
fn stored(checkpoint: &Checkpoint, dtype: DType) -> Result<DType> {
    let mut parts = checkpoint.spec.weights.iter().flat_map(|weight| &weight.parts);
    let coded = parts
        .any(|part| checkpoint.source.info(&part.source).is_ok_and(|info| info.format.plain().is_none()));
    Ok(if coded { dtype } else { checkpoint.dtype()? })
}

const fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    }
}

fn failed(path: &Path, cause: &std::io::Error) -> EngineError {
    EngineError::WriteFile { path: path.to_path_buf(), problem: cause.to_string() }
}

/// Makes the directory. What is there already is nobody's to overwrite.
fn make_empty(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|cause| failed(out, &cause))?;
    let first = std::fs::read_dir(out).map_err(|cause| failed(out, &cause))?.next();
    match first {
        None => Ok(()),
        Some(entry) => {
            let name = entry.map(|entry| entry.file_name()).unwrap_or_default();
            let problem = format!("the directory is not empty; give a new one (it holds {})", name.display());
            Err(EngineError::WriteFile { path: out.to_path_buf(), problem })
        }
    }
}

fn write_json(out: &Path, file: &str, value: &Value) -> Result<()> {
    let path = out.join(file);
    std::fs::write(&path, format!("{value:#}\n")).map_err(|cause| failed(&path, &cause))
}

/// One tensor, made when it is written.
struct Lazy<'a> {
    source: &'a Dequantized<&'a dyn WeightSource>,
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    len: usize,
    shared: &'a Shared<'a>,
}

/// What all tensors report to.
struct Shared<'a> {
    progress: &'a dyn Fn(LoadProgress),
    state: RefCell<(LoadProgress, Option<CoreError>)>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut state = self.shared.state.borrow_mut();
        state.0.done += self.len;
        (self.shared.progress)(state.0);
        match self.source.tensor(&self.name) {
            Ok(tensor) => Cow::Owned(tensor.codes.to_vec()),
            // The trait has no place for an error: the file is thrown away.
            Err(error) => {
                state.1.get_or_insert(error);
                Cow::Owned(vec![0; self.len])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.len
    }
}

/// Gives `part` the name `path`, and the rights that the umask leaves a new file: the safetensors
/// crate writes for the owner alone.
fn put(part: &Path, path: &Path) -> std::io::Result<()> {
    let rights = std::fs::File::create(path)?.metadata()?.permissions();
    std::fs::set_permissions(part, rights)?;
    std::fs::rename(part, path)
}

fn write_weights(
    path: &Path,
    checkpoint: &Checkpoint,
    dtype: DType,
    progress: &dyn Fn(LoadProgress),
) -> Result<()> {
    let source = Dequantized::new(&checkpoint.source as &dyn WeightSource, dtype);
    let names =
        checkpoint.spec.weights.iter().flat_map(|weight| &weight.parts).map(|part| part.source.clone());
    let infos = names.map(|name| source.info(&name).map(|info| (name, info)));
    let infos = infos.collect::<nvllm_core::Result<Vec<_>>>()?;
    let total = infos.iter().map(|(_, info)| info.bytes()).sum();
    let state = RefCell::new((LoadProgress { done: 0, total }, None));
    let shared = Shared { progress, state };
    let views = infos.into_iter().map(|(name, info)| {
        let dtype = match info.format.plain() {
            Some(DType::Bf16) => Dtype::BF16,
            Some(DType::F16) => Dtype::F16,
            _ => Dtype::F32,
        };
        let len = info.bytes();
        (name.clone(), Lazy { source: &source, name, dtype, shape: info.shape, len, shared: &shared })
    });
    let part = path.with_extension("safetensors.part");
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let written = safetensors::serialize_to_file(views, Some(format), &part);
    let problem = |error: safetensors::SafeTensorError| EngineError::WriteFile {
        path: part.clone(),
        problem: error.to_string(),
    };
    let failure = shared.state.into_inner().1;
    let result = written.map_err(problem).and_then(|()| failure.map_or(Ok(()), |error| Err(error.into())));
    let result = result.and_then(|()| put(&part, path).map_err(|cause| failed(path, &cause)));
    if result.is_err() {
        // Half of it would be taken for the whole by size alone.
        let _ = std::fs::remove_file(&part);
    }
    result
}
