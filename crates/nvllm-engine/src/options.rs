//! From a user's wishes to [`Limits`]: what to load a model for.

use nvllm_core::{Activations, BackendInfo, DType, KvGeometry, Limits, Numerics};

use crate::{EngineError, Model, Result};

/// What a user may say about how a model is loaded. Names as in vLLM where it has them.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Sequences at once.
    pub max_num_seqs: usize,
    /// New tokens in one step; as many as suit the backend if not given.
    pub max_num_batched_tokens: Option<usize>,
    /// Rows whose logits one step may ask for, beside one a sequence.
    pub max_num_logits: usize,
    /// Tokens of one sequence; the model's own maximum if not given.
    pub max_model_len: Option<usize>,
    /// Bytes of KV cache; as much as `max_num_seqs` full sequences, up to a share of memory, if not given.
    pub kv_cache_bytes: Option<usize>,
    /// KV positions in a block.
    pub block_size: usize,
    /// Storage of values between ops; bf16 for models saved in bf16, else f32, if not given.
    pub activations: Option<Activations>,
    /// KV cache dtype; the activations' if not given.
    pub kv_cache_dtype: Option<DType>,
    /// Summation-order promise.
    pub numerics: Numerics,
    /// Steps out at once; as many as suit the backend if not given.
    pub max_in_flight: Option<usize>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            max_num_seqs: 16,
            max_num_batched_tokens: None,
            max_num_logits: 0,
            max_model_len: None,
            kv_cache_bytes: None,
            block_size: 16,
            activations: None,
            kv_cache_dtype: None,
            numerics: Numerics::Invariant,
            max_in_flight: None,
        }
    }
}

/// The share of memory left beside the weights that the KV cache takes when nobody says otherwise.
const KV_SHARE: f64 = 0.5;

impl LoadOptions {
    /// The limits under which `model` is loaded on the backend that `info` describes.
    ///
    /// Errors if a wish exceeds the model, or memory does not hold one full sequence.
    pub fn limits(&self, model: &Model, info: &BackendInfo) -> Result<Limits> {
        let spec = &model.spec;
        let default = if model.dtype == DType::Bf16 { Activations::Bf16 } else { Activations::F32 };
        let activations = self.activations.unwrap_or(default);
        let context = self.max_model_len.unwrap_or(spec.max_positions);
        if context > spec.max_positions {
            let problem = format!("is {context}; {} has {} positions", model.name, spec.max_positions);
            return Err(EngineError::Option { option: "max-model-len", problem });
        }
        let mut limits = Limits {
            step_tokens: self
                .max_num_batched_tokens
                .unwrap_or(info.step_tokens.min(context.saturating_mul(self.max_num_seqs))),
            step_outputs: self.max_num_seqs.max(self.max_num_logits),
            seqs: self.max_num_seqs,
            context,
            block_len: self.block_size,
            kv_bytes: usize::MAX,
            kv_dtype: self.kv_cache_dtype.unwrap_or(activations.dtype()),
            activations,
            numerics: self.numerics,
            max_in_flight: self.max_in_flight.unwrap_or(info.max_in_flight),
        };
        limits.check()?;
        let block = kv_block_bytes(model, &limits)?;
        let blocks = |seqs: usize| (1 + seqs * context.div_ceil(self.block_size)) * block;
        limits.kv_bytes = self.kv_cache_bytes.unwrap_or_else(|| {
            let free = info.memory_bytes.saturating_sub(model.weight_bytes().unwrap_or(0));
            blocks(self.max_num_seqs).min((free as f64 * KV_SHARE) as usize)
        });
        if limits.kv_bytes < blocks(1) {
            let fits = (limits.kv_bytes / block).saturating_sub(1) * self.block_size;
            let problem = format!(
                "comes to {} bytes, which hold {fits} tokens; one sequence of {context} takes {}: give more, or a \
                 max-model-len of up to {fits}",
                limits.kv_bytes,
                blocks(1)
            );
            return Err(EngineError::Option { option: "kv-cache-bytes", problem });
        }
        Ok(limits)
    }
}

/// Bytes of one block over all KV groups.
pub fn kv_block_bytes(model: &Model, limits: &Limits) -> Result<usize> {
    let groups = model.spec.kv.iter().map(|kv| Ok(KvGeometry::new(kv, limits)?.block_bytes()));
    groups.sum::<nvllm_core::Result<usize>>().map_err(EngineError::from)
}
