//! Every fixture against Hugging Face: wrong mathematics shows here.

use nvllm_core::{Activations, Backend, Reference};
use nvllm_tests::{FIXTURES, Fixture};

/// Holds `backend` to every fixture and both config layouts.
fn check_f32(backend: &dyn Backend) {
    for (name, tolerance) in FIXTURES {
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

#[test]
fn cuda_f32() {
    nvllm_tests::on_cuda(|cuda| check_f32(cuda));
}

/// Holds `backend` to what rounding to bf16 may move.
fn check_bf16(backend: &dyn Backend) {
    println!("{:28} ours to reference   ours to f32   reference to f32", "fixture");
    for (name, _) in FIXTURES {
        let rounded = Fixture::load(name).rounded(backend);
        let [apart, off, rounding] = [rounded.apart, rounded.off, rounded.rounding].map(|d| d.logits);
        println!("{name:28} {apart:>16.4} {off:>14.4} {rounding:>14.4}");
        assert!(rounded.holds(), "{name}: {rounded:?}");
    }
}

#[test]
fn cpu_bf16() {
    check_bf16(&nvllm_tests::cpu());
}

#[test]
fn cuda_bf16() {
    nvllm_tests::on_cuda(|cuda| check_bf16(cuda));
}
