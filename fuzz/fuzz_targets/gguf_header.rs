//! Any bytes as a GGUF file: an error, or metadata that can be read, and a configuration, its model
//! and weights that are whole or refused.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use nvllm_core::weight::Checkpoint as _;
use nvllm_core::{DType, HfConfig, ModelSpec, WeightSource as _, weight::Dequantized};
use nvllm_gguf::Gguf;

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzz", &Bytes::copy_from_slice(data)) else { return };
    for name in gguf.names() {
        assert!(gguf.raw(&name).unwrap().bytes.len() <= data.len());
    }
    let metadata = gguf.metadata();
    for key in metadata.keys() {
        let texts = metadata.strings(key).map(|texts| texts.len()).unwrap_or(0);
        let numbers = metadata.i32s(key).map(|numbers| numbers.len()).unwrap_or(0);
        assert!(texts.max(numbers) <= data.len());
        let _ = (metadata.u32s(key), metadata.f32s(key), metadata.str_opt(key), metadata.f64_opt(key));
    }
    let spec = gguf.config().ok().and_then(|config| model(&config));
    let Ok(weights) = gguf.weights() else { return };
    if let Some(spec) = spec {
        let _ = (spec.check_weights(&weights), spec.extra_tensors(&weights));
    }
    for name in weights.names() {
        // In a type that is not read, or with rows of no order: an error for who asks.
        let Ok(tensor) = weights.tensor(&name) else { continue };
        tensor.check(&name).unwrap();
        assert_eq!(tensor.info(), weights.info(&name).unwrap());
    }
    let dense = Dequantized::new(weights, DType::Bf16);
    for name in dense.names() {
        let Ok(tensor) = dense.tensor(&name) else { continue };
        assert_eq!(tensor.info(), dense.info(&name).unwrap());
    }
});

/// The model that a configuration describes, if it is small: large ones take time to record.
fn model(config: &HfConfig) -> Option<ModelSpec> {
    let small = |field| config.extent_opt(field).ok().flatten().is_none_or(|n| n <= 64);
    if !(small("num_hidden_layers") && small("num_experts")) {
        return None;
    }
    (nvllm_engine::registry::family(config).ok()?.build)(config).ok()
}
