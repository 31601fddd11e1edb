//! Any bytes as a checkpoint: an error or tensors whose bytes are all there.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use nvllm_core::WeightSource as _;
use nvllm_core::weight::{DenseSource, Safetensors};

fuzz_target!(|data: &[u8]| {
    let Ok(file) = Safetensors::from_bytes("fuzz", &Bytes::copy_from_slice(data)) else { return };
    let source = DenseSource::new(file);
    for name in source.names() {
        // In a dtype that no weight has: an error for who asks.
        let Ok(tensor) = source.tensor(&name) else { continue };
        assert_eq!(tensor.bytes(), tensor.info().bytes());
    }
});
