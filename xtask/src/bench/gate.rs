//! The part of the accuracy gate that needs the repository: the measured backend on the golden fixtures.

use nvllm_bench::record::Correctness;
use nvllm_core::{Activations, Backend, Reference};
use nvllm_tests::{Fixture, QWEN3_FIXTURES};

/// Holds `backend` to every golden fixture.
///
/// With f32 activations: logits and hidden states within the fixture's tolerance of Hugging Face, greedy runs equal. With
/// bf16: no further from the reference that rounds at the same places than that rounding itself moves the logits.
pub(super) fn check(backend: &dyn Backend) -> Correctness {
    let (mut worst, mut worst_share, mut failed) = (0.0_f32, 0.0_f32, Vec::new());
    for (name, tolerance) in QWEN3_FIXTURES {
        let fixture = Fixture::load(name);
        let run = |backend: &dyn Backend, activations| fixture.run(backend, "config.json", activations);
        let expected = fixture.expected();
        let exact = run(backend, Activations::F32).distance(&expected);
        let rounded = run(&Reference::default(), Activations::Bf16);
        let ours = run(backend, Activations::Bf16).distance(&rounded).logits;
        let share = ours / rounded.distance(&expected).logits;
        let good =
            exact.logits <= tolerance && exact.hidden <= tolerance && exact.num_equal == exact.num_greedy;
        if !good || share.is_nan() || share > 1.0 {
            failed.push(format!("{name} ({exact:?}, bf16 off by {ours})"));
        }
        (worst, worst_share) = (worst.max(exact.logits), worst_share.max(share));
    }
    let num = QWEN3_FIXTURES.len();
    let detail = if failed.is_empty() {
        format!(
            "{num} of {num} golden fixtures hold: f32 logits within {worst:.1e} of Hugging Face, greedy runs equal; bf16 within \
             {worst_share:.2} of what rounding moves"
        )
    } else {
        format!("{} of {num} golden fixtures miss: {}", failed.len(), failed.join(", "))
    };
    Correctness { passed: failed.is_empty(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_backend_does_not_pass() {
        let scaled = Reference::observed(std::sync::Arc::new(|_, node, outputs: &mut [Vec<f32>]| {
            if node.op.stem() == "rms_norm" {
                outputs.iter_mut().flatten().for_each(|x| *x *= 1.01);
            }
        }));
        let result = check(&scaled);
        assert!(!result.passed && result.detail.contains("miss"), "{result:?}");
        assert!(check(&Reference::default()).passed);
    }
}
