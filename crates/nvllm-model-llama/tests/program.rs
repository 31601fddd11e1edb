//! The tape of SmolLM2-135M as text, the sizes of published models, and where windows and biases
//! go.

use nvllm_core::{HfConfig, ModelFamily, ModelSpec, Op, Result};
use nvllm_model_llama::{LLAMA, MISTRAL, QWEN2};
use serde_json::{Value, json};

fn build(family: &ModelFamily, config: &Value) -> Result<ModelSpec> {
    (family.build)(&HfConfig::parse(config.to_string().as_bytes()).unwrap())
}

/// A config of `[vocab, hidden, ffn, layers, heads, KV heads, positions]`, and `more`.
fn config(extents: [usize; 7], more: &Value) -> Value {
    let names = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    ];
    let mut config: serde_json::Map<_, _> =
        names.into_iter().map(String::from).zip(extents.map(Value::from)).collect();
    config.extend(more.as_object().unwrap().clone());
    Value::Object(config)
}

fn smollm2() -> Value {
    let more = json!({"tie_word_embeddings": true, "rms_norm_eps": 1e-5, "rope_theta": 1e5});
    config([49_152, 576, 1536, 30, 9, 3, 8192], &more)
}

fn mistral(more: &Value) -> Value {
    config([32_000, 4096, 14_336, 32, 32, 8, 32_768], more)
}

fn qwen2(more: &Value) -> Value {
    config([151_936, 896, 4864, 24, 14, 2, 32_768], more)
}

#[test]
fn the_whole_program_reads_like_the_model() {
    let program = build(&LLAMA, &smollm2()).unwrap().programs[0].to_string();
    let layer = program.lines().take(15).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("smollm2_135m_head", layer);
    assert_eq!(program.lines().filter(|line| line.contains("attention")).count(), 30);
}

/// Those that the model cards give.
#[test]
fn parameters_are_those_of_the_published_models() {
    let untied = json!({});
    let llama3 = json!({"tie_word_embeddings": true, "rope_theta": 5e5, "rope_scaling": {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }});
    let cases = [
        ("SmolLM2-135M", &LLAMA, smollm2(), 134_515_008),
        ("Llama-2-7B", &LLAMA, config([32_000, 4096, 11_008, 32, 32, 32, 4096], &untied), 6_738_415_616),
        ("Llama-3.2-1B", &LLAMA, config([128_256, 2048, 8192, 16, 32, 8, 131_072], &llama3), 1_235_814_400),
        ("Mistral-7B", &MISTRAL, mistral(&untied), 7_241_732_096),
        ("Qwen2.5-0.5B", &QWEN2, qwen2(&json!({"tie_word_embeddings": true})), 494_032_768),
    ];
    for (name, family, config, parameters) in cases {
        assert_eq!(build(family, &config).unwrap().num_parameters(), parameters, "{name}");
    }
}

/// The window of each KV group with its number of layers, after the ops were found to say the same.
fn windows(family: &ModelFamily, config: &Value) -> Vec<(usize, Option<usize>)> {
    let spec = build(family, config).unwrap();
    for node in &spec.programs[0].nodes {
        if let Op::Attention { spec: attention, kv, .. } = &node.op {
            assert_eq!(attention.window, spec.kv[kv.group].window);
        }
    }
    spec.kv.iter().map(|kv| (kv.num_layers, kv.window)).collect()
}

#[test]
fn every_layer_of_mistral_has_the_window() {
    assert_eq!(windows(&MISTRAL, &mistral(&json!({"sliding_window": 100}))), [(32, Some(100))]);
    assert_eq!(windows(&MISTRAL, &mistral(&json!({"sliding_window": null}))), [(32, None)]);
    // What transformers takes where the field is not there.
    assert_eq!(windows(&MISTRAL, &mistral(&json!({}))), [(32, Some(4096))]);
}

#[test]
fn upper_layers_of_qwen2_have_a_window_if_it_is_switched_on() {
    let field = |on: bool| json!({"sliding_window": 100, "max_window_layers": 21, "use_sliding_window": on});
    assert_eq!(windows(&QWEN2, &qwen2(&field(true))), [(21, None), (3, Some(100))]);
    assert_eq!(windows(&QWEN2, &qwen2(&field(false))), [(24, None)]);
}

#[test]
fn biases_are_where_the_architecture_has_them() {
    let biases = |family: &ModelFamily, config: Value| {
        let spec = build(family, &config).unwrap();
        let of_layer = spec.weights.iter().filter_map(|w| w.name.strip_prefix("layers.0."));
        of_layer.filter_map(|name| name.strip_suffix(".bias")).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(biases(&LLAMA, smollm2()), [""; 0]);
    assert_eq!(biases(&MISTRAL, mistral(&json!({"attention_bias": true}))), [""; 0]);
    assert_eq!(biases(&QWEN2, qwen2(&json!({}))), ["qkv"]);
    let mut llama = smollm2();
    llama["attention_bias"] = json!(true);
    assert_eq!(biases(&LLAMA, llama.clone()), ["qkv", "o"]);
    llama["mlp_bias"] = json!(true);
    assert_eq!(biases(&LLAMA, llama), ["qkv", "o", "gate_up", "down"]);
}

#[test]
fn a_bad_config_names_its_field() {
    for (field, value) in [
        ("num_key_value_heads", json!(2)),
        ("hidden_act", json!("gelu")),
        ("rope_scaling", json!({"type": "dynamic", "factor": 2.0})),
        ("mlp_bias", json!("yes")),
        ("attention_bias", json!(1)),
        ("layer_types", json!(vec!["sliding_attention"; 30])),
    ] {
        let mut config = smollm2();
        config[field] = value.clone();
        let text = build(&LLAMA, &config).err().unwrap_or_else(|| panic!("{field} was accepted")).to_string();
        let named = text.contains(field) || field == "layer_types" && text.contains("sliding_window");
        assert!(text.starts_with("config.json: `") && named, "{field} = {value}: {text}");
    }
    let text = build(&MISTRAL, &mistral(&json!({"sliding_window": 0}))).err().unwrap().to_string();
    assert!(text.contains("sliding_window"), "{text}");
}
