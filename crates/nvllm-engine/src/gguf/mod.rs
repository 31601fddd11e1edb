//! A model in a GGUF file, which is config, weights, tokenizer and chat template in one.

pub mod convert;
mod vocabulary;

use std::path::Path;
use std::sync::Arc;

use nvllm_core::HfConfig;
use nvllm_gguf::Gguf;

use crate::checkpoint::Checkpoint;
use crate::end_tokens::end_tokens;
use crate::hub::ModelFiles;
use crate::text::{ChatTemplate, GenerationConfig, GgufVocabulary};
use crate::{Model, Result, registry};

/// Opens the file and the other parts of it. The metadata are read, of the weights their headers.
pub(crate) fn open(files: &ModelFiles) -> Result<Model> {
    let path = &files.weights.paths()[0];
    let gguf = Gguf::open(path)?;
    let config = gguf.config()?;
    let spec = (registry::family(&config)?.build)(&config)?;
    let checkpoint = Checkpoint::new(config, spec, gguf.weights()?)?;
    let dtype = checkpoint.dtype()?;
    let Checkpoint { config, spec, source, remarks } = checkpoint;
    let vocabulary = vocabulary::read(gguf.metadata())?;
    let tokenizer = vocabulary.as_ref().map(|vocabulary| vocabulary.tokenizer(path)).transpose()?;
    let tokenizer_config = vocabulary.as_ref().map(|v| v.tokenizer_config().to_string()).unwrap_or_default();
    let chat_template = match &vocabulary {
        Some(_) => ChatTemplate::from_parts(None, Some((tokenizer_config.as_bytes(), path)))?,
        None => None,
    };
    let generation = GenerationConfig {
        eos_token_ids: vocabulary.as_ref().map(GgufVocabulary::end_token_ids).unwrap_or_default(),
        ..GenerationConfig::default()
    };
    let generation = generation.within_vocabulary(spec.vocab_size, path);
    let named = tokenizer.as_ref().map(|tokenizer| (tokenizer, tokenizer_config.as_bytes()));
    Ok(Model {
        name: path.display().to_string(),
        architecture: config.architecture()?,
        dtype,
        remarks,
        eos: end_tokens(&generation, &config, named, spec.vocab_size),
        spec,
        tokenizer: tokenizer.map(Arc::new),
        unread_tokenizer: None,
        chat_template,
        generation,
        source: Box::new(source),
    })
}

/// The config that a GGUF file describes, if there is a model of it.
pub(crate) fn check(path: &Path) -> Result<HfConfig> {
    let config = Gguf::open(path)?.config()?;
    (registry::family(&config)?.build)(&config)?;
    Ok(config)
}
