//! A model as files or as embedded bytes: its program, its weights' source, its text conventions.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nvllm_core::weight::{Arranged, DenseSource, Dequantized, Safetensors, formats};
use nvllm_core::{
    Activations, Backend, CoreError, DType, HfConfig, Limits, ModelSpec, SamplingParams, TokenId,
    WeightFormat, WeightSource,
};
use nvllm_quant::make::{Quantized, Recipe};

use crate::checkpoint::{self, Checkpoint};
use crate::end_tokens::end_tokens;
use crate::hub::{ModelFiles, Weights};
use crate::text::{ChatTemplate, GenerationConfig, LazyTokenizer, Tokenizer, end_token};
use crate::{EngineError, Result, gguf, registry};

/// A model's weights as a backend loads them.
pub type LoadedWeights<'a> = Dequantized<&'a (dyn WeightSource + Send + Sync)>;

/// Everything about a model but a device to run it on. Opening maps files and reads headers.
pub struct Model {
    /// How to call it: the directory, the GGUF file, or the embedded model's name.
    pub name: String,
    /// The architecture, as config.json names it.
    pub architecture: String,
    /// What it computes.
    pub spec: ModelSpec,
    /// The dtype that its checkpoint was saved in; bf16 for coded weights.
    pub dtype: DType,
    /// Its tokenizer, if it has one.
    pub(crate) tokenizer: LazyTokenizer,
    /// Its chat template, if it has one.
    pub chat_template: Option<ChatTemplate>,
    /// Its defaults for generation.
    pub generation: GenerationConfig,
    /// Tokens that end a sequence.
    pub eos: Vec<TokenId>,
    /// What of its files is read in another way than they say, or not at all: a line each.
    pub remarks: Vec<String>,
    /// Its weights, as the checkpoint has them.
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

    /// Errors unless `path` is the config.json of a model that this build can run.
    pub(crate) fn check_config(path: &Path) -> Result<()> {
        checkpoint::read_config(path, path.parent().unwrap_or(path)).map(drop)
    }

    /// Errors if the file at `path`, which begins with `start`, is a GGUF model that this build
    /// cannot run. What these bytes do not say is not looked for.
    pub(crate) fn check_gguf_start(path: &Path, start: Vec<u8>) -> Result<()> {
        Ok(nvllm_gguf::check_start(path, &start.into())?)
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

    /// The activations that it runs with if nobody says otherwise: bf16 for a checkpoint in bf16,
    /// f32 for others, whose values bf16 would cut.
    pub fn activations(&self) -> Activations {
        if self.dtype == DType::Bf16 { Activations::Bf16 } else { Activations::F32 }
    }

    /// The same model with what `recipe` names quantised, a tensor at a time as it is loaded.
    ///
    /// Errors if the checkpoint is quantised already.
    pub fn quantize(self, recipe: &Recipe) -> Result<Self> {
        let model = self.dense()?;
        let source = Quantized::new(model.source, recipe.formats(&model.spec))?;
        Ok(Self { source: Box::new(source), ..model })
    }

    /// The model, unless its weights are coded.
    pub(crate) fn dense(self) -> Result<Self> {
        match self.weight_formats()?.into_iter().find(|format| format.plain().is_none()) {
            None => Ok(self),
            Some(coded) => {
                let problem =
                    format!("is quantised already, in {coded}; run it as it is, or take the original");
                Err(CoreError::UnsupportedCheckpoint { path: self.name.into(), problem }.into())
            }
        }
    }

    /// Its weights for `backend`: coded ones that this has no kernels for are expanded into the
    /// dtype of the activations, so that f32 activations see every bit of them.
    ///
    /// Errors if they do not fit what the model declares.
    pub fn weights(&self, backend: &dyn Backend, limits: &Limits) -> Result<LoadedWeights<'_>> {
        Ok(Dequantized::for_backend(self.source.as_ref(), backend, &self.spec, limits)?)
    }

    /// The tokenizer, or an error that says why there is none. A large vocabulary of a GGUF file
    /// is read while weights are: who asks before that is done waits.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        let place = || PathBuf::from(&self.name);
        match self.tokenizer.get() {
            Ok(Some(tokenizer)) => Ok(tokenizer),
            Ok(None) => Err(EngineError::MissingFile {
                dir: place(),
                file: "tokenizer".into(),
                advice: "text needs tokenizer.json, or its like in a GGUF file; token ids work without"
                    .into(),
            }),
            Err(problem) => Err(EngineError::Tokenizer { path: place(), problem: problem.into() }),
        }
    }

    /// The chat template, or an error that says what is missing: a template without a tokenizer
    /// would be of no use.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.tokenizer()?;
        self.chat_template.as_ref().ok_or_else(|| EngineError::MissingFile {
            dir: PathBuf::from(&self.name),
            file: "chat template".into(),
            advice: "it is a base model, which continues texts (nvllm generate), or its template was not copied with it"
                .into(),
        })
    }

    /// How the model's authors sample it: generation_config.json, with OpenAI's defaults for what
    /// it leaves out.
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

    /// The formats of the checkpoint's tensors that the model uses, those of most bytes first.
    pub fn weight_formats(&self) -> Result<Vec<WeightFormat>> {
        let parts = self.spec.weights.iter().flat_map(|w| &w.parts);
        let parts = parts.map(|part| Ok(self.source.info(&part.source)?)).collect::<Result<Vec<_>>>()?;
        Ok(formats(&parts))
    }

    /// Bytes of the checkpoint's tensors that the model uses, tied weights once.
    pub fn weight_bytes(&self) -> Result<usize> {
        let parts = self.spec.weights.iter().flat_map(|w| &w.parts);
        parts.map(|part| Ok(self.source.info(&part.source)?.bytes())).sum()
    }
}
