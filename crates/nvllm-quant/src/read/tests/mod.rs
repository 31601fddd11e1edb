//! Layouts by hand, and what is refused.

mod config;
mod fixtures;
mod groups;
mod layouts;
mod parts;

use std::collections::BTreeMap;

use nvllm_core::weight::{Arranged, Checkpoint, Dequantized, RawTensor};
use nvllm_core::{CoreError, DType, HfConfig, Result, WeightSource as _};
use serde_json::{Value, json};

/// Tensors in memory.
#[derive(Clone, Debug, Default)]
struct Files(BTreeMap<String, RawTensor>);

impl Files {
    /// With a tensor of bytes.
    fn with(mut self, name: &str, dtype: &str, shape: &[usize], bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into().into();
        self.0.insert(name.into(), RawTensor { dtype: dtype.into(), shape: shape.into(), bytes });
        self
    }

    fn words(self, name: &str, shape: &[usize], words: &[u32]) -> Self {
        self.with(name, "I32", shape, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
    }

    fn f32s(self, name: &str, shape: &[usize], numbers: &[f32]) -> Self {
        self.with(name, "F32", shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    fn f16s(self, name: &str, shape: &[usize], numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes());
        self.with(name, "F16", shape, bytes.collect::<Vec<_>>())
    }

    fn bf16s(self, name: &str, shape: &[usize], numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes());
        self.with(name, "BF16", shape, bytes.collect::<Vec<_>>())
    }
}

impl Checkpoint for Files {
    fn describe(&self) -> String {
        "files".into()
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn raw(&self, name: &str) -> Result<RawTensor> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.describe() };
        self.0.get(name).cloned().ok_or_else(missing)
    }
}

/// config.json of that `quantization_config`.
fn config(quantization: &Value) -> HfConfig {
    HfConfig::parse(json!({ "quantization_config": quantization }).to_string().as_bytes()).unwrap()
}

fn read(quantization: &Value, files: &Files) -> Result<Arranged> {
    super::weights(&config(quantization), files.clone())
}

/// The error that there has to be.
fn refused(quantization: &Value, files: &Files) -> String {
    read(quantization, files).err().unwrap_or_else(|| panic!("{quantization} is read")).to_string()
}

/// The values of `m.weight`, whose bytes are those that its format takes.
fn values(quantization: &Value, files: &Files) -> Vec<f32> {
    let source = read(quantization, files).unwrap_or_else(|e| panic!("{quantization}: {e}"));
    assert_eq!(source.names(), ["m.weight"]);
    let tensor = source.tensor("m.weight").unwrap();
    tensor.check("m.weight").unwrap();
    assert_eq!(tensor.info(), source.info("m.weight").unwrap());
    let bytes = Dequantized::new(source, DType::F32).tensor("m.weight").unwrap().codes;
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn gptq(bits: usize, group: i64, format: &str, act_order: bool) -> Value {
    json!({"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": format, "desc_act": act_order, "sym": false})
}

fn awq(group: i64) -> Value {
    json!({"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": true})
}

fn nf4() -> Value {
    json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false, "bnb_4bit_quant_type": "nf4"})
}

fn compressed(format: &str, weights: &Value, inputs: &Value) -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"], "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}},
    })
}

fn int4(group: i64, symmetric: bool) -> Value {
    json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": group, "symmetric": symmetric})
}

fn fp8_blocks() -> Value {
    json!({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]})
}
