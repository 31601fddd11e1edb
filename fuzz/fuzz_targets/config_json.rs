//! Any text as config.json of any family: an error, or a model whose tape is whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nvllm_core::HfConfig;

fuzz_target!(|data: &[u8]| {
    let Ok(config) = HfConfig::parse(data) else { return };
    // Large models take time to record, which is no fault.
    let small = |field| config.extent_opt(field).ok().flatten().is_none_or(|n| n <= 64);
    if !(small("num_hidden_layers") && small("num_experts") && small("num_local_experts")) {
        return;
    }
    let Ok(family) = nvllm_engine::registry::family(&config) else { return };
    if let Ok(spec) = (family.build)(&config) {
        let program = spec.programs[0].expand(|_| true).expect("every fused op expands");
        assert!(!program.to_string().is_empty());
    }
});
