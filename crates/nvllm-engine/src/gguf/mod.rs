//! A model in a GGUF file, which is config, weights, tokenizer and chat template in one.

mod convert;
mod sampling;
mod vocabulary;

pub use convert::convert;

use std::path::Path;

use nvllm_core::{CoreError, HfConfig};
use nvllm_gguf::Gguf;

use crate::checkpoint::Checkpoint;
use crate::end_tokens::end_tokens;
use crate::hub::ModelFiles;
use crate::text::{ChatTemplate, GenerationConfig, GgufVocabulary, LazyTokenizer};
use crate::{EngineError, Model, Result, registry};

/// Opens the file and the other parts of it. The metadata are read, of the weights their headers.
pub(crate) fn open(files: &ModelFiles) -> Result<Model> {
    let path = &files.weights.paths()[0];
    let (gguf, checkpoint) = checkpoint(path)?;
    let dtype = checkpoint.dtype()?;
    let Checkpoint { config, spec, source, remarks } = checkpoint;
    let vocabulary = vocabulary::read(gguf.metadata())?;
    let chat_template = match &vocabulary {
        Some(vocabulary) => {
            let config = vocabulary.tokenizer_config().to_string();
            ChatTemplate::from_parts(None, Some((config.as_bytes(), path)))?
        }
        None => None,
    };
    let ends = vocabulary.as_ref().map(GgufVocabulary::end_token_ids).unwrap_or_default();
    let generation = sampling::generation_config(gguf.metadata(), &ends)?.to_string();
    let generation = GenerationConfig::from_bytes(generation.as_bytes(), path);
    let generation = generation.within_vocabulary(spec.vocab_size, path);
    Ok(Model {
        name: path.display().to_string(),
        architecture: config.architecture()?,
        dtype,
        remarks,
        // The token that the tokenizer names is among the file's.
        eos: end_tokens(&generation, &config, None, spec.vocab_size),
        spec,
        tokenizer: tokenizer(vocabulary, path),
        chat_template,
        generation,
        source: Box::new(source),
    })
}

/// The config that a GGUF file describes, if there is a model of it that its weights fit.
pub(crate) fn check(path: &Path) -> Result<HfConfig> {
    Ok(checkpoint(path)?.1.config)
}

/// The file, and the model that it describes, whose weights it has and no others. Reads headers.
fn checkpoint(path: &Path) -> Result<(Gguf, Checkpoint)> {
    let located = |error| of_file(path, error);
    let gguf = Gguf::open(path).map_err(|cause| located(cause.into()))?;
    let checkpoint = described(&gguf).map_err(located)?;
    // A tensor under a name that the file's kind has not (the norm of a fine-tune, say) would be
    // left out of the computation.
    match checkpoint.spec.extra_tensors(&checkpoint.source).first() {
        Some(name) => Err(located(gguf.refuse_tensor(name).into())),
        None => Ok((gguf, checkpoint)),
    }
}

fn described(gguf: &Gguf) -> Result<Checkpoint> {
    let config = gguf.config()?;
    let spec = (registry::family(&config)?.build)(&config)?;
    let source = gguf.weights()?;
    Checkpoint::new(config, spec, source).map_err(|error| match error {
        EngineError::Core(CoreError::UnknownTensor { name, .. }) => gguf.refuse_tensor(&name).into(),
        other => other,
    })
}

/// The error in words for one file, which has no config.json beside it.
fn of_file(path: &Path, error: EngineError) -> EngineError {
    let EngineError::Core(cause) = error else { return error };
    let unsupported =
        |problem: String| CoreError::UnsupportedCheckpoint { path: path.to_path_buf(), problem };
    let cause = match cause {
        CoreError::BadConfig { field, problem } => unsupported(format!("its model's `{field}` {problem}")),
        CoreError::MissingTensor { name, .. } => unsupported(format!(
            "its model's tensor `{name}` (under GGUF's name for it) is missing; convert the model again"
        )),
        other => other,
    };
    EngineError::Model { dir: path.to_path_buf(), cause }
}

/// The tokenizer, if the file has one, which is made from here on.
fn tokenizer(vocabulary: Option<GgufVocabulary>, path: &Path) -> LazyTokenizer {
    let path = path.to_path_buf();
    match vocabulary {
        Some(vocabulary) => LazyTokenizer::start(move || vocabulary.tokenizer(&path)),
        None => LazyTokenizer::made(None, None),
    }
}
