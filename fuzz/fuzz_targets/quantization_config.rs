//! Any text as config.json of checkpoints of several schemes: an error, or weights that take the
//! bytes that are announced.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use nvllm_core::weight::Safetensors;
use nvllm_core::{HfConfig, WeightSource as _};
use nvllm_quant::read;

const CHECKPOINTS: [&[u8]; 5] = [
    include_bytes!("../../tests/golden/quant/gptq_4bit_act_order/model.safetensors"),
    include_bytes!("../../tests/golden/quant/bnb_nf4_double/model.safetensors"),
    include_bytes!("../../tests/golden/quant/ct_w4a16_asym/model.safetensors"),
    include_bytes!("../../tests/golden/quant/ct_mixed/model.safetensors"),
    include_bytes!("../../tests/golden/quant/fp8_blocks/model.safetensors"),
];
const WEIGHT: &str = "model.layers.0.self_attn.k_proj.weight";

fuzz_target!(|data: &[u8]| {
    let Ok(config) = HfConfig::parse(data) else { return };
    let Ok(Some(quantization)) = read::Quantization::of(&config) else { return };
    assert!(!quantization.method().is_empty());
    for bytes in CHECKPOINTS {
        let files = Safetensors::from_bytes("fuzz", &Bytes::from_static(bytes)).unwrap();
        let Ok(source) = read::weights(&config, files) else { continue };
        for name in source.names() {
            source.info(&name).unwrap();
        }
        let Ok(tensor) = source.tensor(WEIGHT) else { continue };
        tensor.check(WEIGHT).unwrap();
        assert_eq!(tensor.info(), source.info(WEIGHT).unwrap());
    }
});
