//! Which kernels a GPU runs for a step, as text.

use nvllm_core::program::Counts;
use nvllm_core::weight::SyntheticSource;
use nvllm_core::{Activations, Backend, DType, EntryId, HfConfig, Limits, ModelSpec, schedule_text};
use nvllm_engine::registry;

/// Two layers of Qwen3-0.6B's shapes.
fn spec() -> ModelSpec {
    let file = nvllm_tests::in_repository("models/configs/qwen3-0.6b.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    config["num_hidden_layers"] = 2.into();
    let config = HfConfig::parse(config.to_string().as_bytes()).unwrap();
    (registry::family(&config).unwrap().build)(&config).unwrap()
}

#[test]
fn steps_of_qwen3_on_hopper() {
    nvllm_tests::on_cuda(|cuda| {
        let facts = cuda.facts();
        if (facts.capability, facts.multiprocessors) != ((9, 0), 132) {
            println!("skipped: {} is no H100 or H200", facts.name);
            return;
        }
        let spec = spec();
        let limits =
            Limits { step_tokens: 2048, kv_bytes: 64 << 20, ..Limits::new(Activations::Bf16, 64, 4096) };
        let source = SyntheticSource::new(&spec.weights, DType::Bf16, 0);
        let exe = cuda.plan_and_load(&spec, &source, &limits).unwrap();
        let entry = EntryId::default();
        let text = |counts: &Counts| schedule_text(exe.program(entry).unwrap(), &exe.schedule(entry, counts));
        insta::assert_snapshot!("decode_of_1_at_128", text(&Counts::decode(1, 128)));
        insta::assert_snapshot!("decode_of_64_at_1024", text(&Counts::decode(64, 1024)));
        insta::assert_snapshot!("prefill_of_1024", text(&Counts::prefill(1024)));
    });
}
