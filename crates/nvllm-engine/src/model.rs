//! A model: its program, its weights' source, its text conventions.

mod open;

use std::path::PathBuf;
use std::sync::Arc;

use nvllm_core::weight::{Dequantized, formats};
use nvllm_core::{
    Activations, Backend, CoreError, DType, Limits, ModelSpec, SamplingParams, TokenId, WeightFormat,
    WeightSource,
};
use nvllm_quant::make::{Quantized, Recipe};

pub use self::open::ModelBytes;
use crate::text::{ChatTemplate, GenerationConfig, LazyTokenizer, Tokenizer};
use crate::{EngineError, Result};

/// A model's weights as a backend loads them.
pub type LoadedWeights<'a> = Dequantized<&'a (dyn WeightSource + Send + Sync)>;

/// Everything about a model but a device to run it on.
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

impl Model {
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
