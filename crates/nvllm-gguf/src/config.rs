//! A file's metadata in the terms of Hugging Face's `config.json`, which model crates read.
//!
//! Keys: ggml, `docs/gguf.md`. What changes numbers is translated, or refused by its key.

use nvllm_core::{HfConfig, Result};
use serde_json::{Map, Value, json};

use crate::architecture::{Architecture, Keys};
use crate::file::Gguf;
use crate::rope;

impl Gguf {
    /// The model's configuration, as config.json would have it. Tokens that begin or end a text are
    /// the tokenizer's business and not in it.
    ///
    /// Errors with [`UnsupportedCheckpoint`](nvllm_core::CoreError::UnsupportedCheckpoint) if the
    /// architecture is not read, with
    /// [`BadMetadata`](nvllm_core::CoreError::BadMetadata) if a value is missing or not supported,
    /// and if the table of embeddings is missing.
    pub fn config(&self) -> Result<HfConfig> {
        let keys = Keys::of(self)?;
        refuse(&keys)?;
        let mut map = Map::new();
        let mut set = |field: &str, value: Value| map.insert(field.into(), value);
        let heads = keys.num_heads()?;
        let hidden = keys.extent("embedding_length")?;
        let head_dim = head_dim(&keys, hidden, heads)?;
        set("hidden_size", hidden.into());
        set("vocab_size", self.tensor("token_embd.weight")?.num_rows().into());
        set("intermediate_size", keys.extent(ffn_key(&keys)?)?.into());
        set("num_hidden_layers", keys.extent("block_count")?.into());
        set("num_attention_heads", heads.into());
        set("num_key_value_heads", keys.num_kv_heads()?.into());
        set("head_dim", head_dim.into());
        set("max_position_embeddings", keys.extent("context_length")?.into());
        let eps = "attention.layer_norm_rms_epsilon";
        set("rms_norm_eps", keys.f64_opt(eps)?.ok_or_else(|| keys.error(eps, "is missing"))?.into());
        set("tie_word_embeddings", (!self.has("output.weight")).into());
        rope::read(&keys, head_dim)?.into_iter().for_each(|(field, value)| drop(set(&field, value)));
        biases(&keys).into_iter().for_each(|field| drop(set(field, true.into())));
        window(&keys)?.into_iter().for_each(|(field, value)| drop(set(&field, value)));
        experts(&keys)?.into_iter().for_each(|(field, value)| drop(set(&field, value)));
        map.entry("architectures").or_insert_with(|| json!([keys.architecture.class()]));
        map.entry("model_type").or_insert_with(|| keys.architecture.model_type().into());
        map.insert("hidden_act".into(), "silu".into());
        HfConfig::parse(Value::Object(map).to_string().as_bytes())
    }
}

/// Keys that change what a model computes, each with the values at which it changes nothing.
const NEUTRAL: [(&str, &[f64]); 14] = [
    ("attention.causal", &[1.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.scale", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("expert_shared_count", &[0.0]),
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_gating_func", &[0.0, 1.0]),
    ("nextn_predict_layers", &[0.0]),
];

/// Errors if a key changes what is computed in a way that no model crate does.
fn refuse(keys: &Keys<'_>) -> Result<()> {
    for (name, neutral) in NEUTRAL {
        let value = match name {
            "attention.causal" => keys.gguf.metadata().bool_opt(&keys.key(name))?.map(f64::from),
            _ => keys.f64_opt(name)?,
        };
        if let Some(value) = value.filter(|value| !neutral.contains(value)) {
            return Err(keys.error(name, format!("is {value}, which is not supported")));
        }
    }
    Ok(())
}

/// Columns of a head: as given, else as many as the hidden size has for each.
fn head_dim(keys: &Keys<'_>, hidden: u64, heads: u64) -> Result<u64> {
    let given = keys.extent_opt("attention.key_length")?;
    let head_dim = given.unwrap_or_else(|| (hidden / heads).max(1));
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.extent_opt(name)?.filter(|&n| n != head_dim) {
            let problem = format!("is {other}; heads of {head_dim} columns, all rotated, are supported");
            return Err(keys.error(name, problem));
        }
    }
    Ok(head_dim)
}

/// The key of the dense feed-forward's size. Writers may leave it out where every layer is routed.
fn ffn_key(keys: &Keys<'_>) -> Result<&'static str> {
    const DENSE: &str = "feed_forward_length";
    let routed = keys.architecture == Architecture::Qwen3Moe && keys.u64_opt(DENSE)?.is_none_or(|n| n == 0);
    Ok(if routed { "expert_feed_forward_length" } else { DENSE })
}

/// Fields that say which layers have biases; Qwen2's always have theirs.
fn biases(keys: &Keys<'_>) -> Vec<&'static str> {
    let has = |name: &str| keys.gguf.has(&format!("blk.0.{name}.bias"));
    let mut fields = Vec::new();
    if keys.architecture != Architecture::Qwen2 && has("attn_q") {
        fields.push("attention_bias");
    }
    if has("ffn_gate") {
        fields.push("mlp_bias");
    }
    fields
}

/// The sliding window, of all layers.
fn window(keys: &Keys<'_>) -> Result<Map<String, Value>> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let mut map = Map::new();
    let Some(window) = keys.u64_opt("attention.sliding_window")?.filter(|&n| n > 0) else { return Ok(map) };
    if keys.gguf.metadata().contains(&keys.key(PATTERN)) {
        return Err(keys.error(PATTERN, "is not supported; all layers have the window, or none"));
    }
    map.insert("sliding_window".into(), window.into());
    if keys.architecture == Architecture::Llama {
        // Of the models that go by this name, Mistral's have a window.
        map.insert("architectures".into(), json!(["MistralForCausalLM"]));
        map.insert("model_type".into(), "mistral".into());
    } else {
        map.insert("use_sliding_window".into(), true.into());
        map.insert("max_window_layers".into(), 0.into());
    }
    Ok(map)
}

/// The routed feed-forward. Qwen3's router weights are renormalised, always.
fn experts(keys: &Keys<'_>) -> Result<Map<String, Value>> {
    let mut map = Map::new();
    if keys.architecture != Architecture::Qwen3Moe {
        return match keys.u64_opt("expert_count")? {
            Some(n @ 1..) => {
                Err(keys.error("expert_count", format!("is {n}; experts of qwen3moe are supported")))
            }
            _ => Ok(map),
        };
    }
    map.insert("num_experts".into(), keys.num_experts()?.into());
    map.insert("num_experts_per_tok".into(), keys.extent("expert_used_count")?.into());
    map.insert("moe_intermediate_size".into(), keys.extent("expert_feed_forward_length")?.into());
    map.insert("norm_topk_prob".into(), true.into());
    Ok(map)
}
