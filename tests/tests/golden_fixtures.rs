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

#[test]
fn cuda_f32() {
    nvllm_tests::on_cuda(|cuda| check_f32(cuda));
}

/// Under bf16 activations a backend and the reference round at the same points. They differ only where another
/// order of an f32 sum tips a rounding, which must not amount to more than the rounding itself does.
fn check_bf16(backend: &dyn Backend) {
    let reference = Reference::default();
    println!("{:28} ours to reference   ours to f32   reference to f32", "fixture");
    for (name, _) in QWEN3_FIXTURES {
        let fixture = Fixture::load(name);
        let exact = fixture.expected();
        let rounded = fixture.run(&reference, "config.json", Activations::Bf16);
        let got = fixture.run(backend, "config.json", Activations::Bf16);
        let (apart, rounding) = (got.distance(&rounded), rounded.distance(&exact));
        let off = got.distance(&exact).logits;
        println!("{name:28} {:>16.4} {off:>14.4} {:>14.4}", apart.logits, rounding.logits);
        assert!(
            apart.logits <= rounding.logits,
            "{name}: {apart:?} apart, rounding alone moves {rounding:?}"
        );
        assert!(off <= 2.0 * rounding.logits, "{name}: {off} from f32, the reference {rounding:?}");
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
