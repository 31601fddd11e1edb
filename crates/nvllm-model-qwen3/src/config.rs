//! Qwen3's `config.json`, checked: hub layout and transformers 5 layout.

use nvllm_core::blocks::DecoderConfig;
use nvllm_core::{CoreError, HfConfig, Result};

/// Everything the tape needs to know.
pub(crate) struct Config {
    pub decoder: DecoderConfig,
    pub attention_bias: bool,
    /// Sliding window of each layer.
    pub windows: Vec<Option<usize>>,
    pub moe: Option<Moe>,
}

/// The routed feed-forward.
#[derive(Clone)]
pub(crate) struct Moe {
    pub num_experts: usize,
    pub experts_per_token: usize,
    pub ffn: usize,
    pub renormalize: bool,
    sparse_step: usize,
    dense_layers: Vec<usize>,
}

/// More than any model has: bounds what is declared for a number in a file.
const MAX_EXPERTS: usize = 4096;

impl Moe {
    /// Whether layer `index` is routed.
    pub(crate) fn is_sparse(&self, index: usize) -> bool {
        !self.dense_layers.contains(&index) && (index + 1).is_multiple_of(self.sparse_step)
    }

    fn read(hf: &HfConfig) -> Result<Self> {
        // transformers 5 renamed the field.
        let experts = if hf.get("num_experts").is_some() { "num_experts" } else { "num_local_experts" };
        let moe = Self {
            num_experts: hf.extent(experts)?,
            experts_per_token: hf.extent("num_experts_per_tok")?,
            ffn: hf.extent("moe_intermediate_size")?,
            renormalize: hf.flag_or("norm_topk_prob", false)?,
            sparse_step: hf.extent_opt("decoder_sparse_step")?.unwrap_or(1),
            dense_layers: hf.indices("mlp_only_layers")?,
        };
        if moe.num_experts > MAX_EXPERTS {
            let problem = format!("is {}; up to {MAX_EXPERTS} are supported", moe.num_experts);
            return Err(CoreError::config(experts, problem));
        }
        if moe.experts_per_token > moe.num_experts {
            let problem = format!("is {}, more than the {} experts", moe.experts_per_token, moe.num_experts);
            return Err(CoreError::config("num_experts_per_tok", problem));
        }
        Ok(moe)
    }
}

impl Config {
    pub(crate) fn read(hf: &HfConfig) -> Result<Self> {
        let decoder = DecoderConfig::read(hf)?;
        Ok(Self {
            attention_bias: hf.flag_or("attention_bias", false)?,
            windows: decoder.upper_windows(hf)?,
            moe: (hf.architecture()? == "Qwen3MoeForCausalLM").then(|| Moe::read(hf)).transpose()?,
            decoder,
        })
    }
}
