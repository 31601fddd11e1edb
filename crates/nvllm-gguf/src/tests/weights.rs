//! A file's weights under Hugging Face's names, in the model's order.

use nvllm_core::WeightSource as _;
use nvllm_core::weight::Dequantized;
use nvllm_core::{CanonicalTensor, DType};

use super::config::model;
use super::write::File;

/// Numbers from `first` on, in f32.
fn count(first: usize, len: usize) -> Vec<u8> {
    (first..first + len).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

fn values(tensor: &CanonicalTensor) -> Vec<f32> {
    (0..tensor.codes.len() / 4).map(|i| DType::F32.read(&tensor.codes, i)).collect()
}

/// Four query heads and two of keys, of eight rows each; a row of two columns.
fn attention(architecture: &str) -> File {
    let file = model(architecture).number(&format!("{architecture}.attention.head_count_kv"), 2);
    file.tensor("blk.0.attn_q.weight", &[2, 32], 0, &count(0, 64))
        .tensor("blk.0.attn_k.weight", &[2, 16], 0, &count(0, 32))
        .tensor("blk.0.attn_v.weight", &[2, 16], 0, &count(0, 32))
        .tensor("blk.0.attn_k.bias", &[16], 0, &count(0, 16))
}

const K: &str = "model.layers.0.self_attn.k_proj.weight";

#[test]
fn llamas_rows_are_put_back_and_others_left() {
    let llama = attention("llama").open().unwrap().weights().unwrap();
    let first = |name: &str| values(&llama.tensor(name).unwrap()).into_iter().step_by(2).collect::<Vec<_>>();
    // Row 2 i + j of a head is row i of its half j.
    let head = [0.0, 4.0, 8.0, 12.0, 2.0, 6.0, 10.0, 14.0];
    let keys: Vec<f32> = (0..2).flat_map(|h| head.map(|row| row + 16.0 * h as f32)).collect();
    assert_eq!(first(K), keys);
    let queries: Vec<f32> = (0..4).flat_map(|h| head.map(|row| row + 16.0 * h as f32)).collect();
    assert_eq!(first("model.layers.0.self_attn.q_proj.weight"), queries);
    let bias: Vec<f32> = keys.iter().map(|row| row / 2.0).collect();
    assert_eq!(values(&llama.tensor("model.layers.0.self_attn.k_proj.bias").unwrap()), bias);
    let plain: Vec<f32> = (0..32).map(|i| i as f32).collect();
    assert_eq!(values(&llama.tensor("model.layers.0.self_attn.v_proj.weight").unwrap()), plain);
    let some = values(&llama.rows(K, 9..11).unwrap());
    assert_eq!(some, [keys[9], keys[9] + 1.0, keys[10], keys[10] + 1.0]);
    let qwen = attention("qwen2").open().unwrap().weights().unwrap();
    assert_eq!(values(&qwen.tensor(K).unwrap()), plain);
}

#[test]
fn each_expert_is_a_tensor_of_its_own() {
    let routed = |num_experts| model("qwen3moe").number("qwen3moe.expert_count", num_experts);
    let file = routed(4).tensor("blk.1.ffn_gate_exps.weight", &[2, 3, 4], 0, &count(0, 24)).tensor(
        "blk.1.ffn_down_exps.weight",
        &[32, 2, 4],
        8,
        &[3; 8 * 34],
    );
    let source = file.open().unwrap().weights().unwrap();
    let gate = |e: usize| format!("model.layers.1.mlp.experts.{e}.gate_proj.weight");
    for e in 0..4 {
        let tensor = source.tensor(&gate(e)).unwrap();
        assert_eq!(tensor.info(), source.info(&gate(e)).unwrap());
        assert_eq!(tensor.shape, [3, 2]);
        assert_eq!(values(&tensor), (6 * e..6 * e + 6).map(|i| i as f32).collect::<Vec<_>>());
    }
    assert!(!source.contains(&gate(4)) && source.tensor(&gate(4)).is_err());
    let down = source.tensor("model.layers.1.mlp.experts.1.down_proj.weight").unwrap();
    assert_eq!((&down.shape[..], down.format.to_string()), (&[2, 32][..], "q8_0".to_owned()));
    down.check("down").unwrap();
}

/// A stack costs its file as many bytes as it has experts, and stands in a layer that there is.
#[test]
fn experts_are_as_many_as_the_metadata_say() {
    let routed = |name: &str, dims: &[u64]| {
        let file = model("qwen3moe").number("qwen3moe.expert_count", 3).zeros(name, dims).open().unwrap();
        file.weights().map(|weights| weights.names().len()).map_err(|error| error.to_string())
    };
    let up = "blk.1.ffn_up_exps.weight";
    assert_eq!(routed(up, &[1, 1, 3]), Ok(4));
    for dims in [&[2, 3][..], &[1, 1, 4096], &[1, 1, 1, 3]] {
        let message = routed(up, dims).unwrap_err();
        assert!(message.contains("a stack of 3 experts is needed"), "{message}");
    }
    let message = routed("blk.2.ffn_up_exps.weight", &[1, 1, 3]).unwrap_err();
    assert!(message.contains("holds tensor `blk.2.ffn_up_exps.weight`, which is not part of"), "{message}");
    let dense = model("qwen3").zeros(up, &[1, 1, 3]).open().unwrap();
    let message = dense.weights().err().unwrap().to_string();
    assert!(message.contains("is not part of qwen3 as it is supported"), "{message}");
}

#[test]
fn a_tensor_that_the_model_does_not_read_is_called_by_the_files_name() {
    let file = model("qwen3moe").number("qwen3moe.expert_count", 3);
    let file = file.zeros("blk.1.ffn_up_exps.weight", &[1, 1, 3]).zeros("blk.0.attn_q_norm.weight", &[8]);
    let gguf = file.open().unwrap();
    for (name, own) in [
        ("model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"),
        ("model.layers.1.mlp.experts.2.up_proj.weight", "blk.1.ffn_up_exps.weight"),
    ] {
        let message = gguf.refuse_tensor(name).to_string();
        assert!(
            message.contains(&format!("holds tensor `{own}`, which is not part of qwen3moe")),
            "{message}"
        );
    }
}

#[test]
fn coded_weights_load_dense_where_asked() {
    let block = [&0x3c00_u16.to_le_bytes()[..], &[2; 32]].concat();
    let file = model("qwen3").tensor("blk.0.ffn_up.weight", &[32, 3], 8, &block.repeat(3));
    let weights = file.zeros("blk.0.ffn_norm.weight", &[32]).open().unwrap().weights().unwrap();
    let source = Dequantized::new(weights, DType::F32);
    assert_eq!(values(&source.tensor("model.layers.0.mlp.up_proj.weight").unwrap()), [2.0; 96]);
    assert_eq!(source.info("model.layers.0.post_attention_layernorm.weight").unwrap().shape, [32]);
}

#[test]
fn what_the_architecture_does_not_have_is_refused() {
    let refused = |file: File| file.open().unwrap().weights().err().expect("it is refused").to_string();
    let shared = refused(model("qwen3moe").zeros("blk.0.ffn_up_shexp.weight", &[2, 2]));
    assert!(
        shared.contains("holds tensor `blk.0.ffn_up_shexp.weight`, which is not part of qwen3moe"),
        "{shared}"
    );
    assert!(refused(model("phi3")).contains("\"phi3\"; supported in GGUF files"));
    let odd = model("llama").zeros("blk.0.attn_q.weight", &[2, 12]).open().unwrap().weights().unwrap();
    let message = odd.info("model.layers.0.self_attn.q_proj.weight").unwrap_err().to_string();
    assert!(message.contains("has 12 rows, which do not fill 4 heads of an even length"), "{message}");
    // What the configuration has used is no weight.
    let source = model("llama").zeros("rope_freqs.weight", &[4]).open().unwrap().weights().unwrap();
    assert_eq!(source.names(), ["model.embed_tokens.weight"]);
}
