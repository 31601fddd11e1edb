//! Checkpoints in other layouts, or at odds with their config.json, are the models that they were
//! saved from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nvllm_core::{DType, Weight};
use nvllm_engine::Model;
use nvllm_engine::hub::ModelFiles;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// Dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

const DENSE: &str = "a_qwen3_tied_gqa";
const ROUTED: &str = "h1_qwen3moe_norm";
const TABLE: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// The fixture with other tensors and other fields in config.json (null: absent).
fn changed(name: &str, tensors: impl Fn(Tensors) -> Tensors, fields: &Value) -> nvllm_engine::Result<Model> {
    let (from, dir) = (fixture(name), tempfile::tempdir().unwrap());
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |view: &TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let all = file.tensors().iter().map(|(name, view)| (name.clone(), owned(view))).collect();
    let all = tensors(all);
    let views = all.iter().map(|(name, (dtype, shape, data))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let path = dir.path().join("model.safetensors");
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    Model::open(&ModelFiles::in_directory(dir.path()).unwrap())
}

fn opened(name: &str, tensors: impl Fn(Tensors) -> Tensors, fields: &Value) -> Model {
    changed(name, tensors, fields).unwrap_or_else(|e| panic!("{e}"))
}

fn with(mut all: Tensors, name: &str, dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Tensors {
    all.insert(name.into(), (dtype, shape.to_vec(), data));
    all
}

/// All weights by name.
fn weights(model: &Model) -> BTreeMap<String, Vec<f32>> {
    let load = |decl| Weight::load(decl, model.source.as_ref()).unwrap().to_f32().unwrap();
    model.spec.weights.iter().map(|decl| (decl.name.clone(), load(decl))).collect()
}

fn plain(name: &str) -> BTreeMap<String, Vec<f32>> {
    weights(&opened(name, |all| all, &json!({})))
}

/// A head of the table's shape with other numbers.
fn other_head(all: Tensors) -> Tensors {
    let (dtype, shape, mut data) = all[TABLE].clone();
    data.rotate_left(2);
    with(all, HEAD, dtype, &shape, data)
}

#[test]
fn a_head_of_its_own_is_used_whatever_the_flag_says() {
    let model = opened(DENSE, other_head, &json!({}));
    let untied = opened(DENSE, other_head, &json!({"tie_word_embeddings": false}));
    assert_eq!(weights(&model), weights(&untied));
    assert!(weights(&model).contains_key("lm_head"));
    assert!(model.remarks[0].contains(HEAD) && untied.remarks.is_empty(), "{:?}", model.remarks);
}

#[test]
fn a_head_that_is_a_copy_or_absent_is_tied() {
    let copy = |all: Tensors| {
        let (dtype, shape, data) = all[TABLE].clone();
        with(all, HEAD, dtype, &shape, data)
    };
    let model = opened(DENSE, copy, &json!({}));
    assert!(model.remarks.is_empty(), "{:?}", model.remarks);
    assert_eq!(weights(&model), plain(DENSE));
    let alone = opened(DENSE, |all| all, &json!({"tie_word_embeddings": false}));
    assert!(alone.remarks[0].contains(HEAD), "{:?}", alone.remarks);
    assert_eq!(weights(&alone), plain(DENSE));
    let called_head = |mut all: Tensors| {
        let table = all.remove(TABLE).unwrap();
        all.insert(HEAD.into(), table);
        all
    };
    assert_eq!(weights(&opened(DENSE, called_head, &json!({}))), plain(DENSE));
}

#[test]
fn the_tensors_say_their_dtype_where_the_config_does_not() {
    let f32s = |all: Tensors| {
        let wide = |data: &[u8]| data.chunks(2).flat_map(|b| [0, 0, b[0], b[1]]).collect::<Vec<u8>>();
        all.into_iter().map(|(name, (_, shape, data))| (name, (Dtype::F32, shape, wide(&data)))).collect()
    };
    for absent in [json!(null), json!("auto")] {
        let fields = json!({ "torch_dtype": absent });
        assert_eq!(opened(DENSE, f32s, &fields).dtype, DType::F32);
        assert_eq!(opened(DENSE, |all| all, &fields).dtype, DType::Bf16);
    }
    assert_eq!(opened(DENSE, f32s, &json!({"torch_dtype": "bfloat16"})).dtype, DType::Bf16);
}

#[test]
fn what_nothing_needs_is_a_remark() {
    for (name, dtype, shape, len) in [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::F32, &[8][..], 32),
        ("v_head.summary.weight", Dtype::BF16, &[1, 64], 128),
        ("model.position_ids", Dtype::I64, &[1], 8),
    ] {
        let model = opened(DENSE, |all| with(all, name, dtype, shape, vec![0; len]), &json!({}));
        assert!(model.remarks.len() == 1 && model.remarks[0].contains(name), "{:?}", model.remarks);
        assert_eq!(weights(&model), plain(DENSE));
    }
}

#[test]
fn more_in_a_layer_than_the_config_says_is_refused() {
    for name in ["model.layers.0.self_attn.q_proj.bias", "model.layers.1.mlp.up_proj.lora_A.weight"] {
        let text = changed(DENSE, |all| with(all, name, Dtype::BF16, &[1], vec![0; 2]), &json!({}));
        let text = text.err().expect("refused").to_string();
        assert!(text.contains(name), "{text}");
    }
}

/// As writers of GPTQ once gave every layer.
#[test]
fn a_bias_of_zeros_of_a_quantised_layer_is_none() {
    const NAME: &str = "quant/gptq_4bit";
    const BIAS: &str = "model.layers.0.self_attn.o_proj.bias";
    let of = |value: u8| move |all| with(all, BIAS, Dtype::F16, &[64], vec![value; 128]);
    let model = opened(NAME, of(0), &json!({}));
    assert!(model.remarks.is_empty(), "{:?}", model.remarks);
    assert_eq!(weights(&model), plain(NAME));
    let text = changed(NAME, of(1), &json!({})).err().expect("refused").to_string();
    assert!(text.contains(BIAS), "{text}");
    // Its kernels' dtype is not that of what is expanded.
    assert_eq!(opened(NAME, |all| all, &json!({"torch_dtype": "float16", "dtype": null})).dtype, DType::Bf16);
}

#[test]
fn the_prefix_may_be_left_out() {
    let flat = |all: Tensors| {
        let short = |name: String| name.strip_prefix("model.").map_or(name.clone(), str::to_owned);
        all.into_iter().map(|(name, tensor)| (short(name), tensor)).collect()
    };
    for name in [DENSE, ROUTED] {
        let model = opened(name, flat, &json!({}));
        assert!(model.remarks.is_empty(), "{:?}", model.remarks);
        assert_eq!(weights(&model), plain(name));
    }
}

/// The experts of every layer in two tensors, as transformers 5 holds them.
fn stacked(all: &Tensors) -> Tensors {
    let is_expert = |name: &str| name.contains(".mlp.experts.");
    let mut out: Tensors =
        all.iter().filter(|(name, _)| !is_expert(name)).map(|(name, t)| (name.clone(), t.clone())).collect();
    for first in all.keys().filter(|name| name.ends_with(".experts.0.gate_proj.weight")) {
        let layer = first.strip_suffix(".0.gate_proj.weight").unwrap();
        let tensor = |e: usize, proj: &str| all.get(&format!("{layer}.{e}.{proj}_proj.weight"));
        let num_experts = (0..all.len()).take_while(|&e| tensor(e, "gate").is_some()).count();
        for (name, projs) in [("gate_up", &["gate", "up"][..]), ("down", &["down"])] {
            let (dtype, shape, _) = tensor(0, projs[0]).unwrap();
            let parts = (0..num_experts).flat_map(|e| projs.iter().map(move |proj| (e, *proj)));
            let data = parts.flat_map(|(e, proj)| tensor(e, proj).unwrap().2.clone()).collect();
            let shape = vec![num_experts, shape[0] * projs.len(), shape[1]];
            out.insert(format!("{layer}.{name}_proj"), (*dtype, shape, data));
        }
    }
    out
}

#[test]
fn experts_may_be_stacked() {
    let model = opened(ROUTED, |all| stacked(&all), &json!({}));
    assert!(model.remarks.is_empty(), "{:?}", model.remarks);
    assert_eq!(weights(&model), plain(ROUTED));
    let transposed = |all: Tensors| {
        let mut all = stacked(&all);
        all.values_mut().filter(|(_, shape, _)| shape.len() == 3).for_each(|(_, shape, _)| shape.swap(1, 2));
        all
    };
    let text = changed(ROUTED, transposed, &json!({})).err().expect("refused").to_string();
    assert!(text.contains(".mlp.experts.") && text.contains("has shape"), "{text}");
}

#[test]
fn a_weight_of_a_type_that_is_not_dense_is_refused_by_name_and_type() {
    let coded = |mut all: Tensors| {
        let name = "model.layers.0.mlp.up_proj.weight";
        let (_, shape, data) = all[name].clone();
        let bytes = shape.iter().product();
        all.insert(name.into(), (Dtype::F8_E4M3, shape, data[..bytes].to_vec()));
        all
    };
    let message = changed(DENSE, coded, &json!({})).err().expect("no reader of FP8").to_string();
    assert!(message.contains("up_proj.weight") && message.contains("has dtype F8_E4M3"), "{message}");
}
