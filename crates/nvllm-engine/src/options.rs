//! From a user's wishes to [`Limits`]: what to load a model for.

use std::borrow::Cow;

use nvllm_core::limits::MAX_EXTENT;
use nvllm_core::{Activations, BackendInfo, CoreError, KvFormat, KvGeometry, Limits, ModelSpec, Numerics};

use crate::{EngineError, Model, Result};

/// What a user may say about how a model is loaded. Names as in vLLM where it has them.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Sequences at once; as many as suit the backend if not given.
    pub max_num_seqs: Option<usize>,
    /// Requests that there will be at once at most, each of one choice, if that is known: the model
    /// is not loaded for more sequences than that.
    pub expected_requests: Option<usize>,
    /// New tokens in one step; as many as suit the backend if not given.
    pub max_num_batched_tokens: Option<usize>,
    /// Rows whose logits one step may ask for, beside one a sequence.
    pub max_num_logits: usize,
    /// Tokens of one sequence; the model's own maximum, or what fits, if not given.
    pub max_model_len: Option<usize>,
    /// Bytes of KV cache. If not given: as much as `max_num_seqs` full sequences need, but no more
    /// than the backend's [share](BackendInfo::memory_share) of memory leaves beside all else, and
    /// no less than one sequence needs.
    pub kv_cache_bytes: Option<usize>,
    /// Share of the device's memory that the model takes at most if `kv_cache_bytes` is not given,
    /// above 0 and up to 1; the [backend's](BackendInfo::memory_share) if not given. A host's is
    /// counted of what the weights leave.
    pub gpu_memory_utilization: Option<f64>,
    /// KV positions in a block.
    pub block_size: usize,
    /// Storage of values between ops; bf16 for models saved in bf16, else f32, if not given.
    pub activations: Option<Activations>,
    /// How keys and values are stored; as the activations if not given.
    pub kv_cache_dtype: Option<KvFormat>,
    /// Summation-order promise.
    pub numerics: Numerics,
    /// Steps in flight; the backend's default if not given.
    pub max_in_flight: Option<usize>,
    /// Whether a greedy request that runs alone finds its tokens through a copy of the head in 8
    /// bits: the same tokens, in less time where reading the head is much of it, for the memory of
    /// the copy.
    pub exact_head: bool,
    /// Requests that may wait for a slot, 1 or more; the next is refused with
    /// [`EngineError::QueueFull`].
    pub max_queued_requests: usize,
    /// Tokens that the prompts of waiting requests may have together, 1 or more; the next request
    /// is refused likewise. A prompt that is longer is taken if no other waits.
    pub max_queued_prompt_tokens: usize,
    /// Whether a prompt takes over the keys and values of a prefix that the KV cache still holds.
    pub enable_prefix_caching: bool,
    /// Whether requests may ask for embeddings: loads a second program of the model, which takes
    /// memory for its graphs and time.
    pub embeddings: bool,
    /// Who sends requests, 1 or more: requests of the same priority take turns by tenant, and each
    /// tenant fills its own part of the queue.
    pub tenants: Vec<Tenant>,
}

/// Somebody whose requests get a share of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// What requests call it.
    pub name: String,
    /// Its share of the tokens while others wait too, and of the queue, relative to the others'
    /// weights; 1 or more.
    pub weight: u32,
}

impl Default for Tenant {
    fn default() -> Self {
        Self { name: "default".into(), weight: 1 }
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            max_num_seqs: None,
            expected_requests: None,
            max_num_batched_tokens: None,
            max_num_logits: 0,
            max_model_len: None,
            kv_cache_bytes: None,
            gpu_memory_utilization: None,
            block_size: Limits::BLOCK_LEN,
            activations: None,
            kv_cache_dtype: None,
            numerics: Numerics::Invariant,
            max_in_flight: None,
            exact_head: false,
            // Far more than any client waits for; a bound on the memory of a burst: 16 MiB of
            // prompts.
            max_queued_requests: 4096,
            max_queued_prompt_tokens: 4 << 20,
            enable_prefix_caching: true,
            embeddings: false,
            tenants: vec![Tenant::default()],
        }
    }
}

impl LoadOptions {
    /// The limits under which `model` is loaded on the backend that `info` describes. Whether they
    /// fit its memory a [`LoadPlan`](crate::LoadPlan) says.
    ///
    /// Errors if a wish cannot be met on any device: it exceeds the model, or a KV cache of that
    /// size holds no full sequence.
    pub fn limits(&self, model: &Model, info: &BackendInfo) -> Result<Limits> {
        if let Some(share) = self.gpu_memory_utilization.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            let problem = format!("is {share}; give a share of memory above 0 and up to 1");
            return Err(EngineError::Option { option: "gpu-memory-utilization", problem });
        }
        let activations = self.activations.unwrap_or(model.activations());
        let context = self.context(model)?;
        let expected = self.expected_requests.unwrap_or(usize::MAX).max(1);
        let seqs = self.max_num_seqs.unwrap_or(info.seqs).min(expected);
        let all_tokens = context.saturating_mul(seqs);
        let step_tokens = self.max_num_batched_tokens.unwrap_or(info.step_tokens.min(all_tokens).max(1));
        let limits = Limits {
            step_tokens,
            step_outputs: self.step_outputs(step_tokens, seqs),
            block_len: self.block_size,
            kv_format: self.kv_cache_dtype.unwrap_or(activations.kv_format()),
            numerics: self.numerics,
            max_in_flight: self.max_in_flight.unwrap_or(info.max_in_flight),
            exact_head: self.exact_head,
            ..Limits::new(activations, seqs, context)
        };
        limits.check().map_err(|e| self.named(e))?;
        let limits = Limits {
            // No step holds more than all tokens of all sequences.
            step_tokens: step_tokens.min(all_tokens),
            step_outputs: self.step_outputs(step_tokens.min(all_tokens), seqs),
            kv_bytes: self.kv_bytes(model, &limits, info)?,
            ..limits
        };
        KvGeometry::plan(&model.spec.kv, &limits).map_err(|e| self.named(e))?;
        Ok(limits)
    }

    /// Rows whose logits a step of so many tokens and sequences may ask for: no more than it has.
    pub(crate) fn step_outputs(&self, step_tokens: usize, seqs: usize) -> usize {
        seqs.max(self.max_num_logits.min(step_tokens))
    }

    fn context(&self, model: &Model) -> Result<usize> {
        let most = model.spec.max_positions;
        match self.max_model_len.unwrap_or(most) {
            context if context > most => {
                let problem =
                    format!("is {context}; {} has {most} positions: give {most} or less", model.name);
                Err(EngineError::Option { option: "max-model-len", problem })
            }
            context => Ok(context),
        }
    }

    /// Bytes of KV cache: those asked for, at least for one sequence, or for all sequences.
    fn kv_bytes(&self, model: &Model, limits: &Limits, info: &BackendInfo) -> Result<usize> {
        let block = self.block_bytes(model, limits)?;
        let bytes = |seqs| kv_bytes(seqs, limits, block);
        let one = bytes(1);
        let Some(given) = self.kv_cache_bytes else {
            let most = (MAX_EXTENT / limits.block_len).saturating_mul(block);
            return Ok(bytes(limits.seqs).min(info.memory_bytes).min(most).max(one));
        };
        if given >= one {
            return Ok(given);
        }
        let tokens = tokens_in(given, limits, block);
        let remedy =
            if tokens > 0 { format!(", or a --max-model-len of {tokens} or less") } else { String::new() };
        let problem = format!(
            "is {given}; one sequence of {} tokens takes {one}: give that or more{remedy}",
            limits.context
        );
        Err(EngineError::Option { option: "kv-cache-bytes", problem })
    }

    /// Bytes of one block over all KV groups.
    pub(crate) fn block_bytes(&self, model: &Model, limits: &Limits) -> Result<usize> {
        KvGeometry::bytes_of_block(&model.spec.kv, limits).map_err(|e| self.named(e))
    }

    /// What is loaded of `model`: with the program of hidden states if there are to be embeddings.
    ///
    /// Errors if the model has none.
    pub(crate) fn spec<'a>(&self, model: &'a Model) -> Result<Cow<'a, ModelSpec>> {
        if !self.embeddings {
            return Ok(Cow::Borrowed(&model.spec));
        }
        model.spec.with_entry(ModelSpec::HIDDEN).map(Cow::Owned).ok_or_else(|| EngineError::Option {
            option: "embeddings",
            problem: format!("is given, and {} does not hand out hidden states; leave it out", model.name),
        })
    }

    /// An error of the core in the words of these options: a limit is called by the option that it
    /// came from.
    pub(crate) fn named(&self, error: CoreError) -> EngineError {
        let CoreError::BadLimits { field, problem } = error else { return error.into() };
        // Steps of the default size are never what is too large.
        let logits = self.step_outputs(self.max_num_batched_tokens.unwrap_or(0), 0);
        let option = match field {
            "step_outputs" if logits <= self.max_num_seqs.unwrap_or(1) => "max-num-seqs",
            "step_tokens" | "step_outputs" => "max-num-batched-tokens",
            "seqs" => "max-num-seqs",
            "context" => "max-model-len",
            "block_len" => "block-size",
            "kv_bytes" => "kv-cache-bytes",
            "kv_format" => "kv-cache-dtype",
            "max_in_flight" => "max-in-flight",
            "exact_head" => "exact-head",
            _ => return CoreError::BadLimits { field, problem }.into(),
        };
        EngineError::Option { option, problem }
    }
}

/// Bytes of a KV cache that holds `seqs` full sequences and the null block, or the address space if
/// that is less.
pub(crate) fn kv_bytes(seqs: usize, limits: &Limits, block_bytes: usize) -> usize {
    let blocks = limits.context.div_ceil(limits.block_len).saturating_mul(seqs).saturating_add(1);
    blocks.saturating_mul(block_bytes)
}

/// Tokens that a KV cache of `bytes` holds, beside the null block.
pub(crate) fn tokens_in(bytes: usize, limits: &Limits, block_bytes: usize) -> usize {
    bytes.checked_div(block_bytes).unwrap_or(0).saturating_sub(1).saturating_mul(limits.block_len)
}
