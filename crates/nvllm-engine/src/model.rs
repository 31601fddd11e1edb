//! A model as files or as embedded bytes: its program, its weights' source, its text conventions.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use nvllm_core::weight::SafetensorsSource;
use nvllm_core::{DType, HfConfig, ModelSpec, SamplingParams, TokenId, WeightSource};

use crate::hub::ModelFiles;
use crate::text::{ChatTemplate, GenerationConfig, Tokenizer};
use crate::{EngineError, Result, registry};

/// Everything about a model but a device to run it on. Opening maps files and reads headers; no weight is touched.
pub struct Model {
    /// How to call it: the directory, or the embedded model's name.
    pub name: String,
    /// What it computes.
    pub spec: ModelSpec,
    /// The dtype that its checkpoint was saved in.
    pub dtype: DType,
    /// Its tokenizer, if it has one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Its chat template, if it has one.
    pub chat_template: Option<ChatTemplate>,
    /// Its defaults for generation.
    pub generation: GenerationConfig,
    /// Tokens that end a sequence.
    pub eos: Vec<TokenId>,
    /// Its weights.
    pub source: Box<dyn WeightSource + Send + Sync>,
}

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
    /// Opens a model's files.
    ///
    /// Errors if config.json or the weights are bad or do not fit each other, or a text file that is present is bad. A
    /// tokenizer and a template may be absent: such a model computes logits.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        let located = |cause| EngineError::Model { dir: files.dir.clone(), cause };
        let config = std::fs::read(&files.config)
            .map_err(|cause| EngineError::ReadFile { path: files.config.clone(), cause })?;
        let config = HfConfig::parse(&config).map_err(located)?;
        let spec = registry::build(&config).map_err(|e| match e {
            EngineError::Core(cause) => located(cause),
            other => other,
        })?;
        let generation = GenerationConfig::from_optional_file(files.generation_config.as_deref())?;
        let source = SafetensorsSource::open(&files.dir).map_err(located)?;
        spec.check_names(&source).map_err(located)?;
        let tokenizer = files.tokenizer.as_deref().map(Tokenizer::from_file).transpose()?;
        Ok(Self {
            name: files.dir.display().to_string(),
            dtype: config.dtype().map_err(located)?,
            eos: eos(&generation, &config)?,
            spec,
            tokenizer: tokenizer.map(Arc::new),
            chat_template: ChatTemplate::load(
                files.chat_template.as_deref(),
                files.tokenizer_config.as_deref(),
            )?,
            generation,
            source: Box::new(source),
        })
    }

    /// Opens a model that lies in memory.
    pub fn from_bytes(files: &ModelBytes<'_>) -> Result<Self> {
        let place = |file: &str| PathBuf::from(files.name).join(file);
        let config = HfConfig::parse(files.config)?;
        let generation =
            GenerationConfig::from_bytes(files.generation_config, &place("generation_config.json"))?;
        let source = SafetensorsSource::from_bytes(files.name, &files.weights)?;
        let tokenizer = Tokenizer::from_bytes(files.tokenizer, &place("tokenizer.json"))?;
        let template =
            ChatTemplate::from_parts(None, Some((files.tokenizer_config, &place("tokenizer_config.json"))))?;
        let spec = registry::build(&config)?;
        spec.check_names(&source)?;
        Ok(Self {
            name: files.name.into(),
            spec,
            dtype: config.dtype()?,
            eos: eos(&generation, &config)?,
            tokenizer: Some(Arc::new(tokenizer)),
            chat_template: template,
            generation,
            source: Box::new(source),
        })
    }

    /// The tokenizer, or an error that says what is missing.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        self.tokenizer.as_ref().ok_or_else(|| EngineError::MissingFile {
            dir: PathBuf::from(&self.name),
            file: "tokenizer.json".into(),
            advice: "text needs a tokenizer; token ids work without one".into(),
        })
    }

    /// How the model's authors sample it: generation_config.json, with OpenAI's defaults for what it leaves out.
    ///
    /// `do_sample: false` is greedy. Stop tokens are the model's end-of-sequence tokens.
    pub fn sampling(&self) -> SamplingParams {
        let given = &self.generation;
        let greedy = given.do_sample == Some(false);
        SamplingParams {
            temperature: if greedy { 0.0 } else { given.temperature.unwrap_or(1.0) },
            top_k: given.top_k.unwrap_or(0),
            top_p: given.top_p.unwrap_or(1.0),
            min_p: given.min_p.unwrap_or(0.0),
            repetition_penalty: given.repetition_penalty.unwrap_or(1.0),
            stop_tokens: self.eos.clone(),
            ..SamplingParams::default()
        }
    }

    /// Bytes of the checkpoint's tensors that the model uses, tied weights once.
    pub fn weight_bytes(&self) -> Result<usize> {
        let parts = self.spec.weights.iter().flat_map(|w| &w.parts);
        parts.map(|part| Ok(self.source.tensor(&part.source)?.bytes())).sum()
    }
}

/// End-of-sequence tokens: the generation config's, else the model config's.
fn eos(generation: &GenerationConfig, config: &HfConfig) -> Result<Vec<TokenId>> {
    if !generation.eos_token_ids.is_empty() {
        return Ok(generation.eos_token_ids.iter().map(|&id| TokenId(id)).collect());
    }
    let ids = match config.get("eos_token_id") {
        None => Vec::new(),
        Some(serde_json::Value::Number(_)) => vec![config.number_or("eos_token_id", 0.0)? as usize],
        Some(_) => config.indices("eos_token_id")?,
    };
    Ok(ids.into_iter().map(|id| TokenId(id as u32)).collect())
}
