//! ggml's names of tensors in Hugging Face's terms.
//!
//! Source of the names: llama.cpp, `src/llama-arch.cpp`.

/// What a tensor is to a model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The tensor of this name.
    Tensor(String),
    /// All experts of a layer: expert `e` is `model.layers.{layer}.mlp.experts.{e}.{projection}`.
    Experts {
        /// The layer's number.
        layer: u32,
        /// `gate_proj.weight`.
        projection: &'static str,
    },
    /// Read elsewhere, or by nobody: the rotation's frequencies.
    Frequencies,
}

/// Outside of layers.
const GLOBAL: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// In layers, up to `.weight` or `.bias`.
const LAYER: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
];

/// Experts of a layer in one tensor.
const EXPERTS: [(&str, &str); 3] = [
    ("ffn_gate_exps.weight", "gate_proj.weight"),
    ("ffn_up_exps.weight", "up_proj.weight"),
    ("ffn_down_exps.weight", "down_proj.weight"),
];

impl Role {
    /// That of ggml's tensor `name`; none if it has none in the models that are read.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let find = |table: &'static [(&str, &str)], name: &str| {
            table.iter().find(|(known, _)| *known == name).map(|(_, other)| *other)
        };
        if name == "rope_freqs.weight" {
            return Some(Self::Frequencies);
        }
        if let Some(other) = find(&GLOBAL, name) {
            return Some(Self::Tensor(other.into()));
        }
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        // One name for each layer: no leading zeros, no sign.
        let layer = layer.parse::<u32>().ok().filter(|number| number.to_string() == layer)?;
        if let Some(projection) = find(&EXPERTS, rest) {
            return Some(Self::Experts { layer, projection });
        }
        let (module, end) = rest.rsplit_once('.')?;
        match (module, end) {
            ("attn_rot_embd", _) => Some(Self::Frequencies),
            (_, "weight" | "bias") => {
                let module = find(&LAYER, module)?;
                Some(Self::Tensor(format!("model.layers.{layer}.{module}.{end}")))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hugging_faces() {
        let tensor = |name: &str| Some(Role::Tensor(name.into()));
        assert_eq!(Role::of("output.weight"), tensor("lm_head.weight"));
        assert_eq!(Role::of("blk.0.attn_q.bias"), tensor("model.layers.0.self_attn.q_proj.bias"));
        assert_eq!(Role::of("blk.12.attn_q_norm.weight"), tensor("model.layers.12.self_attn.q_norm.weight"));
        assert_eq!(Role::of("blk.3.ffn_gate_inp.weight"), tensor("model.layers.3.mlp.gate.weight"));
        let experts = Role::Experts { layer: 3, projection: "down_proj.weight" };
        assert_eq!(Role::of("blk.3.ffn_down_exps.weight"), Some(experts));
        assert_eq!(Role::of("rope_freqs.weight"), Some(Role::Frequencies));
    }

    #[test]
    fn what_has_no_role_has_none() {
        for name in [
            "",
            "blk",
            "blk.",
            "blk.0",
            "blk.0.attn_q",
            "blk.0.attn_q.scale",
            "blk.00.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk.4294967296.attn_q.weight",
            "blk.0.attn_qkv.weight",
            "blk.0.ffn_gate_shexp.weight",
            "blk.0.ffn_gate.3.weight",
            "token_embd_norm.weight",
            "model.norm.weight",
        ] {
            assert_eq!(Role::of(name), None, "{name}");
        }
    }
}
