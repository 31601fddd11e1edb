//! Every Qwen3 fixture against Hugging Face: wrong mathematics shows here.

use nvllm_core::{Activations, Backend, Reference};
use nvllm_tests::{Fixture, QWEN3_FIXTURES};

/// Holds `backend` to every fixture and both config layouts.
fn check_f32(backend: &dyn Backend) {
    for (name, tolerance) in QWEN3_FIXTURES {
        let fixture = Fixture::load(name);
        let expected = fixture.expected();
        assert!(!expected.hidden.is_empty() && !expected.greedy.is_empty(), "{name}: nothing to compare");
        for config in ["config.json", "config_v5.json"] {
            let d = fixture.run(backend, config, Activations::F32).distance(&expected);
            println!("{name}/{config}: {d:?}");
            assert!(d.logits <= tolerance, "{name}/{config}: logits off by {}", d.logits);
            assert!(d.hidden <= tolerance, "{name}/{config}: hidden states off by {}", d.hidden);
            assert_eq!(d.num_equal, d.num_greedy, "{name}/{config}: greedy runs that are equal");
        }
    }
}

#[test]
fn reference_f32() {
    check_f32(&Reference::default());
}

#[test]
fn cpu_f32() {
    check_f32(&nvllm_tests::cpu());
}
