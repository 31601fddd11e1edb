//! The part of the accuracy gate that needs the repository: the backend on the golden fixtures.

use nvllm_bench::record::Correctness;
use nvllm_conformance::WithNumerics;
use nvllm_core::{Activations, Backend, Numerics};
use nvllm_tests::{FIXTURES, Fixture};

/// Holds `backend` under `numerics` to every golden fixture.
///
/// With f32 activations: logits and hidden states within the fixture's tolerance of Hugging Face,
/// greedy runs equal. With bf16: as [`Rounded::holds`](nvllm_tests::Rounded::holds) says.
pub(super) fn check(backend: &dyn Backend, numerics: Numerics) -> Correctness {
    let backend = &WithNumerics { backend, numerics };
    let (mut worst, mut worst_share, mut failed) = (0.0_f32, 0.0_f32, Vec::new());
    for (name, tolerance) in FIXTURES {
        let fixture = Fixture::load(name);
        let exact = fixture.run(backend, "config.json", Activations::F32).distance(&fixture.expected());
        let rounded = fixture.rounded(backend);
        if !exact.within(tolerance) || !rounded.holds() {
            failed.push(format!("{name} (f32 {exact:?}, bf16 {rounded:?})"));
        }
        worst = worst.max(exact.logits);
        worst_share = worst_share.max(rounded.apart.logits / rounded.rounding.logits);
    }
    let num = FIXTURES.len();
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
    use nvllm_core::{Numerics, Reference};

    use super::*;

    #[test]
    fn a_wrong_backend_does_not_pass() {
        let scaled = Reference::observed(std::sync::Arc::new(|_, node, outputs: &mut [Vec<f32>]| {
            if node.op.stem() == "rms_norm" {
                outputs.iter_mut().flatten().for_each(|x| *x *= 1.01);
            }
        }));
        let result = check(&scaled, Numerics::Invariant);
        assert!(!result.passed && result.detail.contains("miss"), "{result:?}");
        assert!(check(&Reference::default(), Numerics::Invariant).passed);
    }
}
