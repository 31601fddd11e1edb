//! Qwen3's `config.json`, checked: hub layout and transformers 5 layout.

use nvllm_core::{CoreError, HfConfig, HfRope, Result, RopeScaling};

/// Everything the tape needs to know.
pub(crate) struct Config {
    pub vocab: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub max_positions: usize,
    pub eps: f32,
    pub rope: HfRope,
    pub tied: bool,
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
        if moe.experts_per_token > moe.num_experts {
            let problem = format!("is {}, more than the {} experts", moe.experts_per_token, moe.num_experts);
            return Err(CoreError::config("num_experts_per_tok", problem));
        }
        Ok(moe)
    }
}

impl Config {
    pub(crate) fn read(hf: &HfConfig) -> Result<Self> {
        hf.require("hidden_act", "silu")?;
        let rope = HfRope::read(hf)?;
        let num_layers = hf.extent("num_hidden_layers")?;
        let num_heads = hf.extent("num_attention_heads")?;
        let hidden = hf.extent("hidden_size")?;
        let config = Self {
            vocab: hf.extent("vocab_size")?,
            hidden,
            ffn: hf.extent("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads: hf.extent_opt("num_key_value_heads")?.unwrap_or(num_heads),
            head_dim: hf.extent_opt("head_dim")?.unwrap_or((hidden / num_heads).max(1)),
            max_positions: max_positions(hf.extent("max_position_embeddings")?, rope.scaling),
            eps: hf.number_or("rms_norm_eps", 1e-6)? as f32,
            rope,
            tied: hf.flag_or("tie_word_embeddings", false)?,
            attention_bias: hf.flag_or("attention_bias", false)?,
            windows: windows(hf, num_layers)?,
            moe: (hf.architecture()? == "Qwen3MoeForCausalLM").then(|| Moe::read(hf)).transpose()?,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        if self.num_layers > 4096 {
            let problem = format!("is {}; up to 4096 are supported", self.num_layers);
            return Err(CoreError::config("num_hidden_layers", problem));
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let problem =
                format!("is {}; it must divide num_attention_heads, {}", self.num_kv_heads, self.num_heads);
            return Err(CoreError::config("num_key_value_heads", problem));
        }
        if !self.head_dim.is_multiple_of(8) {
            let problem = format!("is {}; multiples of 8 are supported", self.head_dim);
            return Err(CoreError::config("head_dim", problem));
        }
        let parameters = [
            ("vocab_size", self.vocab.checked_mul(self.hidden)),
            ("intermediate_size", self.ffn.checked_mul(self.hidden)),
            (
                "num_attention_heads",
                self.num_heads.checked_mul(self.head_dim).and_then(|n| n.checked_mul(self.hidden)),
            ),
        ];
        match parameters.into_iter().find(|(_, n)| n.is_none_or(|n| n > 1 << 40)) {
            Some((field, _)) => Err(CoreError::config(field, "makes a weight of more than 2^40 elements")),
            None => Ok(()),
        }
    }
}

/// Positions that the model was made for: with YaRN the original context times the factor, where
/// config.json was left with less (model cards tell to add `rope_scaling` and nothing else).
fn max_positions(given: usize, scaling: RopeScaling) -> usize {
    match scaling {
        RopeScaling::Yarn { factor, original_len, .. } => {
            given.max((original_len as f64 * factor).min(f64::from(1 << 28)) as usize)
        }
        _ => given,
    }
}

/// Each layer's window: from `layer_types` if given, else from `max_window_layers`.
fn windows(hf: &HfConfig, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let window =
        if hf.flag_or("use_sliding_window", false)? { hf.extent_opt("sliding_window")? } else { None };
    if let Some(types) = hf.strings("layer_types")? {
        if types.len() != num_layers {
            let problem = format!("names {} layers; num_hidden_layers is {num_layers}", types.len());
            return Err(CoreError::config("layer_types", problem));
        }
        let of = |kind: &String| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" if window.is_some() => Ok(window),
            "sliding_attention" => Err(CoreError::config(
                "sliding_window",
                "is missing or switched off; layer_types names sliding layers",
            )),
            other => Err(CoreError::config(
                "layer_types",
                format!("holds {other}; full_attention and sliding_attention are supported"),
            )),
        };
        return types.iter().map(of).collect();
    }
    // 0 is meaningful here: every layer slides.
    let first = hf.number_or("max_window_layers", num_layers as f64)? as usize;
    Ok((0..num_layers).map(|i| window.filter(|_| i >= first)).collect())
}
