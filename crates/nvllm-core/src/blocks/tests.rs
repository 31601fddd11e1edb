//! A Llama-like family made of blocks.

use serde_json::json;

use super::{DecoderConfig, DecoderLayer, GatedMlp, Scope, causal_lm};
use crate::{HfConfig, ModelSpec, Result, SpecBuilder};

fn config() -> DecoderConfig {
    let config = json!({
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
        "tie_word_embeddings": true,
    });
    DecoderConfig::read(&HfConfig::parse(config.to_string().as_bytes()).unwrap()).unwrap()
}

/// What such a family's crate holds beside its config.
fn llama(qkv_bias: bool) -> Result<ModelSpec> {
    let config = config();
    let mut b = SpecBuilder::new();
    let kv = config.kv_layers(&mut b, &[None, None]);
    let attention = super::GqaShape { qkv_bias, ..config.attention(None) };
    let declare = |b: &mut SpecBuilder, i: usize| {
        let scope = Scope::layer(i);
        let mlp = |b: &mut SpecBuilder| GatedMlp::declare(b, &scope, config.hidden, config.ffn, false);
        DecoderLayer::declare(b, &scope, &attention, kv[i], mlp)
    };
    causal_lm("Llama", &config.causal_lm_shape(), b, declare, |layer, p, h| layer.record(p, h, config.eps))
}

#[test]
fn a_llama_like_family_is_its_config_and_its_layer() {
    let spec = llama(false).unwrap();
    let layer = 2 * 16 + 16 * (4 + 2 + 2) * 8 + 4 * 8 * 16 + 3 * 16 * 24;
    assert_eq!(spec.num_parameters(), 50 * 16 + 2 * layer + 16);
    let tensors: Vec<_> =
        spec.weights.iter().flat_map(|w| &w.parts).map(|part| part.source.as_str()).collect();
    for (end, rows) in
        [("self_attn.k_proj.weight", 16), ("mlp.up_proj.weight", 24), ("self_attn.o_proj.weight", 16)]
    {
        let name = format!("model.layers.1.{end}");
        assert!(tensors.contains(&name.as_str()), "{tensors:?}");
        let part = spec.weights.iter().flat_map(|w| &w.parts).find(|part| part.source == name).unwrap();
        assert_eq!(part.num_rows, rows);
    }
    assert!(!tensors.iter().any(|name| name.contains("bias") || name.contains("q_norm")));
    assert_eq!(spec.unused_tensors, ["lm_head.weight"]);
    let stems: Vec<_> = spec.programs[0].nodes.iter().map(|node| node.op.stem()).collect();
    let layer = [
        "rms_norm",
        "linear",
        "attention",
        "linear",
        "add",
        "rms_norm",
        "linear",
        "silu_mul",
        "linear",
        "add",
    ];
    assert_eq!(stems, [&["embed"], &layer[..], &layer, &["rms_norm", "gather_rows", "linear"]].concat());
}

/// It is the same program up to the head, so that it stores the same keys and values.
#[test]
fn hidden_states_are_an_entry_only_if_asked_for() {
    let spec = llama(false).unwrap();
    assert_eq!((spec.programs.len(), spec.entry(ModelSpec::HIDDEN)), (1, None));
    assert_eq!(spec.hidden_size(), Some(16));
    let both = spec.with_entry(ModelSpec::HIDDEN).unwrap();
    assert_eq!((both.entry(ModelSpec::HIDDEN), both.hidden_size()), (Some(crate::EntryId(1)), Some(16)));
    let [generate, hidden] = &both.programs[..] else { panic!("{} programs", both.programs.len()) };
    let text =
        |program: &crate::Program| program.nodes.iter().map(|node| program.line(node)).collect::<Vec<_>>();
    let (generate, hidden) = (text(generate), text(hidden));
    assert_eq!(generate[..generate.len() - 1], hidden[..]);
    assert_eq!(both.programs[0].to_string(), spec.programs[0].to_string());
    assert!(both.with_entry(ModelSpec::HIDDEN).is_none() && spec.with_entry("other").is_none());
}

#[test]
fn biases_are_declared_beside_their_weights() {
    let spec = llama(true).unwrap();
    let at = spec.weights.iter().position(|w| w.name == "layers.1.qkv").unwrap();
    let bias = &spec.weights[at + 1];
    assert_eq!((bias.name.as_str(), &bias.shape[..]), ("layers.1.qkv.bias", &[64][..]));
    let sources: Vec<_> = bias.parts.iter().map(|part| (part.source.as_str(), part.num_rows)).collect();
    let name = |proj: &str| format!("model.layers.1.self_attn.{proj}_proj.bias");
    assert_eq!(sources, [(&*name("q"), 32), (&*name("k"), 16), (&*name("v"), 16)]);
}

/// Qwen's of transformers: a window of 4096 from layer 28 on, unless the file says otherwise.
#[test]
fn upper_windows_have_their_defaults_where_the_file_has_no_field() {
    let config = DecoderConfig { num_layers: 30, ..config() };
    let from = |fields: serde_json::Value| {
        let hf = HfConfig::parse(fields.to_string().as_bytes()).unwrap();
        let windows = config.upper_windows(&hf).unwrap();
        (windows.iter().position(Option::is_some), windows[29])
    };
    assert_eq!(from(json!({"use_sliding_window": true})), (Some(28), Some(4096)));
    assert_eq!(from(json!({"use_sliding_window": true, "sliding_window": null})), (None, None));
    assert_eq!(from(json!({"use_sliding_window": true, "sliding_window": 7})), (Some(28), Some(7)));
    assert_eq!(from(json!({"use_sliding_window": true, "max_window_layers": 0})), (Some(0), Some(4096)));
    assert_eq!(from(json!({"sliding_window": 7, "max_window_layers": 0})), (None, None));
}
