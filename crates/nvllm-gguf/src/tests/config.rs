//! Metadata in config.json's terms.

use nvllm_core::{HfConfig, HfRope, RopeScaling};

use super::write::File;

/// A small model of `architecture`, with the keys that every one has.
pub(super) fn model(architecture: &str) -> File {
    let key = |name: &str| format!("{architecture}.{name}");
    File::new()
        .text("general.architecture", architecture)
        .number(&key("block_count"), 2)
        .number(&key("embedding_length"), 32)
        .number(&key("feed_forward_length"), 48)
        .number(&key("attention.head_count"), 4)
        .number(&key("context_length"), 256)
        .float(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .zeros("token_embd.weight", &[32, 10])
}

fn config(file: &File) -> HfConfig {
    file.open().unwrap().config().unwrap()
}

fn refused(file: &File) -> String {
    file.open().unwrap().config().expect_err("the model is refused").to_string()
}

fn extents(config: &HfConfig, fields: &[&str]) -> Vec<usize> {
    fields.iter().map(|field| config.extent(field).unwrap()).collect()
}

#[test]
fn what_every_model_has_is_translated() {
    for (name, class) in
        [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")]
    {
        let found = config(&model(name).float(&format!("{name}.rope.freq_base"), 5e5));
        assert_eq!(found.architecture().unwrap(), class);
        let fields = ["vocab_size", "num_hidden_layers", "hidden_size", "intermediate_size", "head_dim"];
        assert_eq!(extents(&found, &fields), [10, 2, 32, 48, 8]);
        let fields = ["num_attention_heads", "num_key_value_heads", "max_position_embeddings"];
        assert_eq!(extents(&found, &fields), [4, 4, 256]);
        assert_eq!(found.number_or("rms_norm_eps", 0.0).unwrap() as f32, 1e-5);
        assert_eq!(HfRope::read(&found).unwrap(), HfRope { theta: 5e5, scaling: RopeScaling::None });
        assert!(found.flag_or("tie_word_embeddings", false).unwrap());
        assert!(!found.flag_or("attention_bias", false).unwrap());
        assert!(found.get("eos_token_id").is_none() && found.get("sliding_window").is_none());
        let key = |rest: &str| format!("{name}.attention.{rest}");
        let more = model(name).zeros("output.weight", &[32, 10]).number(&key("head_count_kv"), 2);
        let more = config(&more.number(&key("key_length"), 16).number(&key("value_length"), 16));
        assert!(!more.flag_or("tie_word_embeddings", true).unwrap());
        assert_eq!(extents(&more, &["num_key_value_heads", "head_dim"]), [2, 16]);
    }
}

#[test]
fn experts_are_translated_for_the_architecture_that_has_them() {
    let moe = model("qwen3moe")
        .number("qwen3moe.expert_count", 8)
        .number("qwen3moe.expert_used_count", 2)
        .number("qwen3moe.expert_feed_forward_length", 24);
    let found = config(&moe);
    assert_eq!(found.architecture().unwrap(), "Qwen3MoeForCausalLM");
    assert_eq!(extents(&found, &["num_experts", "num_experts_per_tok", "moe_intermediate_size"]), [8, 2, 24]);
    assert!(found.flag_or("norm_topk_prob", false).unwrap());
    let mixtral = refused(&model("llama").number("llama.expert_count", 8));
    assert!(mixtral.contains("`llama.expert_count` is 8; experts of qwen3moe are supported"), "{mixtral}");
}

#[test]
fn biases_are_known_by_their_tensors() {
    let biased = |name| model(name).zeros("blk.0.attn_q.bias", &[32]).zeros("blk.0.ffn_gate.bias", &[48]);
    let llama = config(&biased("llama"));
    assert!(llama.flag_or("attention_bias", false).unwrap() && llama.flag_or("mlp_bias", false).unwrap());
    assert!(config(&biased("qwen2")).get("attention_bias").is_none());
}

#[test]
fn a_window_is_of_all_layers() {
    let qwen = config(&model("qwen3").number("qwen3.attention.sliding_window", 64));
    assert_eq!(qwen.extent("sliding_window").unwrap(), 64);
    assert!(qwen.flag_or("use_sliding_window", false).unwrap());
    assert_eq!(qwen.number_or("max_window_layers", 9.0).unwrap(), 0.0);
    let mistral = config(&model("llama").number("llama.attention.sliding_window", 64));
    assert_eq!(mistral.architecture().unwrap(), "MistralForCausalLM");
    assert!(
        config(&model("qwen3").number("qwen3.attention.sliding_window", 0)).get("sliding_window").is_none()
    );
    let pattern = model("qwen3").number("qwen3.attention.sliding_window", 64);
    let message = refused(&pattern.number("qwen3.attention.sliding_window_pattern", 6));
    assert!(message.contains("`qwen3.attention.sliding_window_pattern`"), "{message}");
}

#[test]
fn scalings_that_metadata_name_are_translated() {
    let scaling = |file: &File| HfRope::read(&config(file)).map(|rope| rope.scaling).unwrap();
    let with = |kind: &str, factor| {
        model("qwen3").text("qwen3.rope.scaling.type", kind).float("qwen3.rope.scaling.factor", factor)
    };
    assert_eq!(scaling(&with("none", 4.0)), RopeScaling::None);
    assert_eq!(scaling(&with("linear", 4.0)), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(
        scaling(&model("llama").float("llama.rope.scaling.factor", 2.0)),
        RopeScaling::Linear { factor: 2.0 }
    );
    assert_eq!(
        scaling(&model("llama").float("llama.rope.scale_linear", 2.0)),
        RopeScaling::Linear { factor: 2.0 }
    );
    let yarn = with("yarn", 4.0).number("qwen3.rope.scaling.original_context_length", 64);
    let factor = 0.1 * 4.0_f64.ln() + 1.0;
    for (file, attention_factor) in
        [(yarn.clone(), factor), (yarn.clone().float("qwen3.rope.scaling.attn_factor", 0.5), factor * 0.5)]
    {
        let expected = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_len: 64,
            attention_factor,
            truncate: true,
        };
        assert_eq!(scaling(&file), expected);
    }
    for (attn, known) in [(1.0, true), (factor as f32, true), (0.7, false)] {
        let file = yarn.clone().float("qwen3.rope.scaling.yarn_attn_factor", attn);
        if known {
            assert_eq!(scaling(&file), scaling(&yarn));
        } else {
            let message = refused(&file);
            assert!(
                message.contains("may replace YaRN's own") && message.contains("yarn_attn_factor"),
                "{message}"
            );
        }
    }
    let log = refused(&yarn.float("qwen3.rope.scaling.yarn_log_multiplier", 0.1));
    assert!(log.contains("`qwen3.rope.scaling.yarn_log_multiplier` is 0.1"), "{log}");
    let other = refused(&with("longrope", 4.0));
    assert!(other.contains("is longrope; none, linear and yarn are supported"), "{other}");
}

/// The factors as the models' code computes them, in f32.
fn llama3_factors(factor: f32, theta: f32, head_dim: usize) -> Vec<f32> {
    let of = |i| {
        let frequency = 1.0 / theta.powf((2 * i) as f32 / head_dim as f32);
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        if wavelength < 8192.0 / 4.0 {
            1.0
        } else if wavelength > 8192.0 {
            factor
        } else {
            let smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..head_dim / 2).map(of).collect()
}

#[test]
fn llama_3s_factors_are_recognised_and_no_others() {
    let with = |factors: &[f32], head_dim| {
        let data: Vec<u8> = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
        let file =
            model("llama").float("llama.rope.freq_base", 5e5).number("llama.attention.key_length", head_dim);
        file.tensor("rope_freqs.weight", &[factors.len() as u64], 0, &data)
    };
    for (factor, head_dim) in [(8.0, 128), (32.0, 64)] {
        let factors = llama3_factors(factor, 5e5, head_dim);
        let expected = RopeScaling::Llama3 {
            factor: factor.into(),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_len: 8192,
        };
        let rope = HfRope::read(&config(&with(&factors, head_dim as u32))).unwrap();
        assert_eq!(rope, HfRope { theta: 5e5, scaling: expected });
        let mut other = factors.clone();
        other[head_dim / 4] *= 1.001;
        let wrong = [with(&other, head_dim as u32), with(&factors, 2 * head_dim as u32)];
        let nan = with(&vec![f32::NAN; head_dim / 2], head_dim as u32);
        for file in wrong.iter().chain([&nan]) {
            let message = refused(file);
            assert!(
                message.contains("`rope_freqs.weight`") && message.contains("not those of Llama 3"),
                "{message}"
            );
        }
    }
    let ones = HfRope::read(&config(&with(&[1.0; 8], 16))).unwrap();
    assert_eq!(ones.scaling, RopeScaling::None);
    let both = with(&llama3_factors(8.0, 5e5, 64), 64).float("llama.rope.scaling.factor", 2.0);
    assert!(refused(&both).contains("beside the tensor `rope_freqs.weight`"), "{}", refused(&both));
    let long = refused(&model("llama").zeros("rope_factors_long.weight", &[4]));
    assert!(long.contains("LongRoPE"), "{long}");
}

#[test]
fn what_is_not_computed_is_refused_by_its_key() {
    for (key, value, expected) in [
        ("attention.scale", 0.5, "is 0.5, which is not supported"),
        ("final_logit_softcapping", 30.0, "is 30, which is not supported"),
        ("logit_scale", 0.25, "is 0.25"),
    ] {
        let message = refused(&model("llama").float(&format!("llama.{key}"), value));
        assert!(message.contains(&format!("`llama.{key}` {expected}")), "{message}");
    }
    assert!(model("llama").float("llama.logit_scale", 1.0).open().unwrap().config().is_ok());
    let partial = refused(&model("qwen2").number("qwen2.rope.dimension_count", 4));
    assert!(partial.contains("`qwen2.rope.dimension_count` is 4; heads of 8 columns"), "{partial}");
    let encoder = refused(&model("qwen2").with("qwen2.attention.causal", 7, &[0]));
    assert!(encoder.contains("`qwen2.attention.causal` is 0"), "{encoder}");
}

#[test]
fn an_unknown_architecture_is_named_with_those_that_are_known() {
    let message = refused(&model("gemma3"));
    assert!(
        message.contains("\"gemma3\"; supported in GGUF files: llama, qwen2, qwen3, qwen3moe"),
        "{message}"
    );
    let message = refused(&File::new());
    assert!(message.contains("`general.architecture` is missing"), "{message}");
}

#[test]
fn a_missing_or_absurd_value_is_named() {
    for key in ["block_count", "embedding_length", "attention.head_count", "context_length"] {
        let whole = format!("llama.{key}");
        let mut file = model("llama");
        file.values.retain(|entry| !entry.windows(whole.len()).any(|w| w == whole.as_bytes()));
        assert!(refused(&file).contains(&format!("`{whole}` is missing")), "{}", refused(&file));
        let message = refused(&file.number(&whole, 0));
        assert!(message.contains(&format!("`{whole}` is 0; a number from 1 to")), "{message}");
    }
    let mut file = model("llama");
    file.tensors.clear();
    assert!(refused(&file).contains("`token_embd.weight`"), "{}", refused(&file));
}

#[test]
fn the_beginning_of_a_file_tells_its_architecture() {
    let start = |file: &File, len: usize| {
        let path = std::path::Path::new("x.gguf");
        crate::check_start(path, &bytes::Bytes::copy_from_slice(&file.bytes()[..len]))
    };
    let file =
        File::new().number("general.alignment", 32).text("general.architecture", "gpt2").text("a", "b");
    let len = file.bytes().len();
    let message = start(&file, len - 12).unwrap_err().to_string();
    assert!(message.contains("x.gguf: holds a model of architecture \"gpt2\""), "{message}");
    // What is cut off, and what is wrong in another way, shows later.
    for cut in 0..len - 30 {
        start(&file, cut).unwrap();
    }
    start(&model("qwen3"), 200).unwrap();
    start(&File::new().number("general.architecture", 1), 60).unwrap();
}
