//! A model made of its files or of embedded bytes. Opening maps files and reads headers.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use nvllm_core::HfConfig;
use nvllm_core::weight::{Arranged, DenseSource, Safetensors};

use super::Model;
use crate::checkpoint::{self, Checkpoint};
use crate::end_tokens::end_tokens;
use crate::hub::{ModelFiles, Weights};
use crate::text::{ChatTemplate, GenerationConfig, LazyTokenizer, Tokenizer, end_token};
use crate::{EngineError, Result, gguf, registry};

/// The files of a model that lies in memory.
pub struct ModelBytes<'a> {
    /// How to call it.
    pub name: &'a str,
    /// config.json.
    pub config: &'a [u8],
    /// generation_config.json.
    pub generation_config: &'a [u8],
    /// tokenizer.json.
    pub tokenizer: &'a [u8],
    /// tokenizer_config.json.
    pub tokenizer_config: &'a [u8],
    /// model.safetensors.
    pub weights: Bytes,
}

impl Model {
    /// Opens a model's files. Of the weights a head is compared with the embeddings that it may be
    /// a copy of.
    ///
    /// Errors if config.json or the weights are bad or do not fit each other, or a tokenizer or a
    /// template that is present is bad. Both may be absent: such a model computes logits.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        if let Weights::Gguf(_) = files.weights {
            return gguf::open(files);
        }
        let located = |cause| EngineError::Model { dir: files.dir.clone(), cause };
        let checkpoint = Checkpoint::open(files)?;
        let dtype = checkpoint.dtype().map_err(located)?;
        let Checkpoint { config, spec, source, remarks } = checkpoint.with_its_head()?;
        let generation = GenerationConfig::from_optional_file(files.generation_config.as_deref())?;
        let path = files.generation_config.clone().unwrap_or_default();
        let generation = generation.within_vocabulary(spec.vocab_size, &path);
        let (tokenizer, unread) = tokenizer(files, &config)?;
        let tokenizer_config =
            files.tokenizer_config.as_deref().map(checkpoint::read).transpose()?.unwrap_or_default();
        let named = tokenizer.as_ref().and_then(|own| own.token_id(&end_token(&tokenizer_config)?));
        Ok(Self {
            name: files.dir.display().to_string(),
            architecture: config.architecture().map_err(located)?,
            dtype,
            remarks,
            eos: end_tokens(&generation, &config, named, spec.vocab_size),
            spec,
            tokenizer: LazyTokenizer::made(tokenizer, unread),
            chat_template: ChatTemplate::load(
                files.chat_template.as_deref(),
                files.tokenizer_config.as_deref(),
            )?,
            generation,
            source: Box::new(source),
        })
    }

    /// The architecture that a model's config.json names, if its files are a checkpoint of it that
    /// can be run. Text files are not looked at.
    ///
    /// Errors as [`open`](Self::open) does.
    pub fn check(files: &ModelFiles) -> Result<String> {
        let config = match &files.weights {
            Weights::Gguf(paths) => gguf::check(&paths[0])?,
            _ => Checkpoint::open(files)?.config,
        };
        Ok(config.architecture()?)
    }

    /// Opens a model that lies in memory.
    pub fn from_bytes(files: &ModelBytes<'_>) -> Result<Self> {
        let place = |file: &str| PathBuf::from(files.name).join(file);
        let config = HfConfig::parse(files.config)?;
        let generation_config = place("generation_config.json");
        let generation = GenerationConfig::from_bytes(files.generation_config, &generation_config);
        let source = Safetensors::from_bytes(files.name, &files.weights)?;
        let tokenizer = Tokenizer::from_bytes(files.tokenizer, &place("tokenizer.json"))?;
        let template =
            ChatTemplate::from_parts(None, Some((files.tokenizer_config, &place("tokenizer_config.json"))))?;
        let spec = (registry::family(&config)?.build)(&config)?;
        let checkpoint = Checkpoint::new(config, spec, Arranged::new(DenseSource::new(source)))?;
        let dtype = checkpoint.dtype()?;
        let Checkpoint { config, spec, source, remarks } = checkpoint.with_its_head()?;
        let generation = generation.within_vocabulary(spec.vocab_size, &generation_config);
        let named = end_token(files.tokenizer_config).and_then(|name| tokenizer.token_id(&name));
        Ok(Self {
            name: files.name.into(),
            architecture: config.architecture()?,
            dtype,
            remarks,
            eos: end_tokens(&generation, &config, named, spec.vocab_size),
            spec,
            tokenizer: LazyTokenizer::made(Some(tokenizer), None),
            chat_template: template,
            generation,
            source: Box::new(source),
        })
    }
}

/// The tokenizer of a model's files; or none, and why those that it has cannot be used.
fn tokenizer(files: &ModelFiles, config: &HfConfig) -> Result<(Option<Tokenizer>, Option<String>)> {
    if let Some(path) = &files.tokenizer {
        return Ok((Some(Tokenizer::from_file(path)?), None));
    }
    let Some(bpe) = &files.bpe else { return Ok((None, slow_tokenizer(&files.dir, ""))) };
    let model_type = config.get("model_type").and_then(serde_json::Value::as_str);
    Ok(match bpe.load(files.tokenizer_config.as_deref(), model_type)? {
        Ok(tokenizer) => (Some(tokenizer), None),
        Err(class) => (None, slow_tokenizer(&files.dir, &format!(" for {class}"))),
    })
}

/// That `dir` has the files of a tokenizer that only transformers reads, if it has.
fn slow_tokenizer(dir: &Path, class: &str) -> Option<String> {
    let mut slow = ["vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"].into_iter();
    let file = slow.find(|file| dir.join(file).is_file())?;
    Some(format!(
        "there is no tokenizer.json, and {file} is not read{class}; AutoTokenizer.from_pretrained(..).save_pretrained(..) \
         of transformers makes tokenizer.json of it"
    ))
}
