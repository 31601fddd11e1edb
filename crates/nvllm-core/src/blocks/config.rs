//! What config.json says of every decoder of Llama's kind.

use super::{CausalLmShape, GqaShape};
use crate::{AttentionSpec, CoreError, HfConfig, HfRope, Result, RopeScaling, RopeSpec};

/// The fields that such models have in common, checked. What a family has of its own (biases,
/// windows, experts) it reads itself.
#[derive(Clone, Debug)]
pub struct DecoderConfig {
    /// Rows of the vocabulary.
    pub vocab: usize,
    /// Columns of the residual stream.
    pub hidden: usize,
    /// Columns of a dense layer's feed-forward.
    pub ffn: usize,
    /// Layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Heads of keys and values; as many as query heads where the file names none.
    pub num_kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Rotation of queries and keys.
    pub rope: HfRope,
    /// Whether the head is the embedding table.
    pub tied: bool,
}

impl DecoderConfig {
    /// Reads both layouts of the file (hub, transformers 5).
    ///
    /// Errors name the field that is missing, of another type, or describes what cannot be run.
    pub fn read(hf: &HfConfig) -> Result<Self> {
        hf.require("hidden_act", "silu")?;
        let rope = HfRope::read(hf)?;
        let num_heads = hf.extent("num_attention_heads")?;
        let hidden = hf.extent("hidden_size")?;
        let config = Self {
            vocab: hf.extent("vocab_size")?,
            hidden,
            ffn: hf.extent("intermediate_size")?,
            num_layers: hf.extent("num_hidden_layers")?,
            num_heads,
            num_kv_heads: hf.extent_opt("num_key_value_heads")?.unwrap_or(num_heads),
            head_dim: hf.extent_opt("head_dim")?.unwrap_or((hidden / num_heads).max(1)),
            max_positions: max_positions(hf.extent("max_position_embeddings")?, rope.scaling),
            eps: hf.number_or("rms_norm_eps", 1e-6)? as f32,
            rope,
            tied: hf.flag_or("tie_word_embeddings", false)?,
        };
        config.check()?;
        Ok(config)
    }

    /// What [`causal_lm`](super::causal_lm()) needs to know of the model.
    pub fn causal_lm_shape(&self) -> CausalLmShape {
        CausalLmShape {
            vocab: self.vocab,
            hidden: self.hidden,
            num_layers: self.num_layers,
            eps: self.eps,
            tied: self.tied,
            max_positions: self.max_positions,
        }
    }

    /// A layer's attention within `window`: no biases, no norm of queries and keys.
    pub fn attention(&self, window: Option<usize>) -> GqaShape {
        let head_dim = self.head_dim;
        GqaShape {
            hidden: self.hidden,
            spec: AttentionSpec {
                num_heads: self.num_heads,
                num_kv_heads: self.num_kv_heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
                window,
            },
            rope: RopeSpec { head_dim, theta: self.rope.theta, scaling: self.rope.scaling },
            qkv_bias: false,
            o_bias: false,
            qk_norm: None,
        }
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
