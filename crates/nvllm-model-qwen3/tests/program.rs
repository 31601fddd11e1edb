//! The tape of Qwen3-0.6B as text, its plan and its cost, and what a bad config says.

use nvllm_core::program::{Counts, MemoryPlan};
use nvllm_core::{Activations, DType, HfConfig, Limits, ModelSpec, Op, PlanRules, WeightFormat, WeightInfo};
use nvllm_model_qwen3::build;
use serde_json::{Value, json};

const CONFIG: &str = include_str!("../../../models/configs/qwen3-0.6b.json");

fn spec() -> ModelSpec {
    build(&HfConfig::parse(CONFIG.as_bytes()).unwrap()).unwrap()
}

fn limits() -> Limits {
    Limits { step_tokens: 512, kv_bytes: 1 << 30, ..Limits::new(Activations::Bf16, 8, 4096) }
}

#[test]
fn the_whole_program_reads_like_the_model() {
    insta::assert_snapshot!("qwen3_0_6b", spec().programs[0].to_string());
}

#[test]
fn one_layer_expands_into_primitives() {
    let program = spec().programs[0].expand(|_| true).unwrap();
    assert!(program.nodes.iter().all(|node| !node.op.is_fused()));
    let text = program.to_string();
    let first = text.lines().take(18).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("qwen3_0_6b_expanded_head", first);
}

#[test]
fn one_layer_fuses_its_residual_branches() {
    let program = spec().programs[0].fuse(|_| true).unwrap();
    let text = program.to_string();
    let first = text.lines().take(9).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("qwen3_0_6b_fused_head", first);
    let recorded = spec().programs[0].expand(|_| true).unwrap();
    assert_eq!(program.expand(|_| true).unwrap().nodes.len(), recorded.nodes.len());
}

/// Layers with a window keep keys and values in a group of their own, from which blocks can be
/// given back; those that see everything share another, and each op names its layer's place.
#[test]
fn a_kv_group_for_each_window() {
    let groups = |max_window_layers: usize| {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        config["use_sliding_window"] = json!(true);
        config["sliding_window"] = json!(100);
        config["max_window_layers"] = json!(max_window_layers);
        let spec = build(&HfConfig::parse(config.to_string().as_bytes()).unwrap()).unwrap();
        let places = spec.programs[0].nodes.iter().filter_map(|node| match &node.op {
            Op::Attention { kv, .. } => Some((kv.group, kv.layer)),
            _ => None,
        });
        let kv: Vec<_> = spec.kv.iter().map(|kv| (kv.num_layers, kv.window)).collect();
        (kv, places.collect::<Vec<_>>())
    };
    let (kv, places) = groups(3);
    assert_eq!(kv, [(3, None), (25, Some(100))]);
    let expected: Vec<_> = (0..3).map(|i| (0, i)).chain((0..25).map(|i| (1, i))).collect();
    assert_eq!(places, expected);
    assert_eq!(groups(0).0, [(28, Some(100))]);
    assert_eq!(groups(28).0, [(28, None)]);
}

#[test]
fn parameters_and_weight_bytes_are_the_models() {
    let spec = spec();
    assert_eq!(spec.num_parameters(), 596_049_920);
    let bf16 = |decl| WeightInfo::uniform(decl, WeightFormat::dense(DType::Bf16));
    let weights: Vec<_> = spec.weights.iter().map(bf16).collect();
    let cost = spec.programs[0].cost(&Counts::decode(1, 0), &limits(), &weights);
    // One row of the table for the embedding, all of it for the head.
    assert_eq!(cost.weight_bytes, 2.0 * 596_049_920.0 + 2.0 * 1024.0);
    let kv = spec.programs[0].cost(&Counts::decode(1, 1000), &limits(), &weights).kv_bytes - cost.kv_bytes;
    assert_eq!(kv, 1000.0 * 114_688.0);
}

#[test]
fn the_plan_overlaps_no_two_live_values_and_is_small() {
    let program = &spec().programs[0];
    for rules in
        [PlanRules::HOST, PlanRules { read_write_share: false, max_segment: 128 << 20, ..PlanRules::HOST }]
    {
        let plan = MemoryPlan::new(program, &limits(), &rules).unwrap();
        let lives = program.lifetimes();
        for a in 0..program.values.len() {
            assert!(plan.places[a].offset.is_multiple_of(rules.align));
            assert!(plan.places[a].offset + plan.places[a].bytes <= plan.segments[plan.places[a].segment]);
            for b in 0..a {
                let alive = lives[a].0 <= lives[b].1 && lives[b].0 <= lives[a].1;
                let (p, q) = (plan.places[a], plan.places[b]);
                let apart = p.segment != q.segment
                    || p.offset + p.bytes <= q.offset
                    || q.offset + q.bytes <= p.offset;
                assert!(!alive || apart, "%{a} and %{b} share memory while both live");
            }
        }
        if !rules.read_write_share {
            for node in &program.nodes {
                let segment = |id: &nvllm_core::ValueId| plan.place(*id).segment;
                assert!(node.outputs.iter().all(|o| node.inputs.iter().all(|i| segment(i) != segment(o))));
            }
        }
        let all: usize = program.values.iter().filter_map(|v| v.max_bytes(&limits())).sum();
        assert!(plan.bytes() * 20 < all, "{} of {all}", plan.bytes());
    }
    let small = PlanRules { max_binding: 1 << 20, ..PlanRules::HOST };
    let message = MemoryPlan::new(program, &limits(), &small).unwrap_err().to_string();
    assert!(message.contains("step_tokens"), "{message}");
}

/// A number of config.json costs no more than a model has.
#[test]
fn experts_are_bounded() {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["architectures"] = json!(["Qwen3MoeForCausalLM"]);
    config["num_experts_per_tok"] = json!(2);
    config["moe_intermediate_size"] = json!(8);
    for field in ["num_experts", "num_local_experts"] {
        let mut config = config.clone();
        config[field] = json!(1 << 28);
        let Err(error) = build(&HfConfig::parse(config.to_string().as_bytes()).unwrap()) else {
            panic!("{field} is refused");
        };
        let message = error.to_string();
        assert!(message.contains(&format!("`{field}` is 268435456; up to 4096 are supported")), "{message}");
    }
}

#[test]
fn yarn_reaches_the_original_context_times_the_factor() {
    let positions = |max: usize| {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        config["max_position_embeddings"] = json!(max);
        config["rope_scaling"] =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        build(&HfConfig::parse(config.to_string().as_bytes()).unwrap()).unwrap().max_positions
    };
    assert_eq!((positions(80), positions(256), positions(300)), (256, 256, 300));
}

#[test]
fn a_bad_config_names_its_field() {
    let message = |field: &str, value: Value| {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        config[field] = value;
        let hf = HfConfig::parse(config.to_string().as_bytes()).unwrap();
        build(&hf).err().unwrap_or_else(|| panic!("{field} was accepted")).to_string()
    };
    let cases = [
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(-3)),
        ("num_attention_heads", json!("16")),
        ("num_key_value_heads", json!(3)),
        ("hidden_size", json!(null)),
        ("hidden_size", json!(u64::MAX)),
        ("vocab_size", json!(1u64 << 40)),
        ("head_dim", json!(12)),
        ("num_hidden_layers", json!(1 << 20)),
        ("hidden_act", json!("gelu")),
        ("rope_theta", json!(0)),
        ("rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0})),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 0.5})),
        ("layer_types", json!(["full_attention"])),
        ("use_sliding_window", json!("yes")),
        ("rms_norm_eps", json!(-1.0)),
    ];
    for (field, value) in cases {
        let text = message(field, value.clone());
        assert!(text.starts_with("config.json: `") && text.contains(field), "{field} = {value}: {text}");
    }
    assert!(HfConfig::parse(b"[1]").unwrap_err().to_string().contains("not a JSON object"));
    assert!(HfConfig::parse(b"{").unwrap_err().to_string().contains("not JSON"));
    let none = HfConfig::parse(b"{}").unwrap();
    assert!(none.architecture().unwrap_err().to_string().contains("architectures"));
}
