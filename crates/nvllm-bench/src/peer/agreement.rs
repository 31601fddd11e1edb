//! Whether a peer runs the same model.

use super::protocol::Scores;
use crate::record::Correctness;

/// The share of the largest logit by which two engines may differ: both round to 16 bits, at other
/// places. It was never reached by rounding, while another model's logits differ by as much as they
/// are large.
const SHARE: f32 = 0.05;

/// Holds a peer's scores after a prompt to our logits.
pub(super) fn check(scores: &Scores, ours: &[f32]) -> Correctness {
    let largest = ours.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let (what, worst) = match scores {
        Scores::Logits(top) => {
            (format!("logits of its {} likeliest tokens", top.len()), worst(top, |id| ours.get(id).copied()))
        }
        Scores::Logprobs(top) => {
            let normalizer = log_sum_exp(ours);
            let logprob = |id: usize| ours.get(id).map(|logit| logit - normalizer);
            (format!("log-probabilities of its {} likeliest tokens", top.len()), worst(top, logprob))
        }
        Scores::Chosen(id) => {
            let best = ours.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let distance = ours.get(*id as usize).map_or(f32::NAN, |logit| best - logit);
            ("its token's logit and the largest, both ours,".into(), distance)
        }
    };
    let passed = worst <= SHARE * largest;
    Correctness {
        passed,
        detail: format!(
            "{what} after a known prompt differ from ours by at most {worst:.3} (largest {largest:.1})"
        ),
    }
}

/// The largest difference; NaN if a token is not ours or nothing was told.
fn worst(top: &[(u32, f32)], ours: impl Fn(usize) -> Option<f32>) -> f32 {
    let differences =
        top.iter().map(|(id, score)| ours(*id as usize).map_or(f32::NAN, |x| (x - score).abs()));
    let nothing = if top.is_empty() { f32::NAN } else { 0.0 };
    differences.fold(nothing, |worst, d| if d.is_nan() || worst.is_nan() { f32::NAN } else { worst.max(d) })
}

fn log_sum_exp(values: &[f32]) -> f32 {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    largest + values.iter().map(|x| (x - largest).exp()).sum::<f32>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_model_does_not_agree() {
        let ours = [0.0, 4.1, 3.9];
        assert!(check(&Scores::Logits(vec![(1, 4.0), (2, 4.0)]), &ours).passed);
        for bad in [vec![(1, 4.0), (0, 4.0)], vec![(7, 4.0)], vec![]] {
            assert!(!check(&Scores::Logits(bad.clone()), &ours).passed, "{bad:?}");
        }
        assert!(!check(&Scores::Logits(vec![(1, 4.0)]), &[0.0, f32::NAN]).passed);
    }

    #[test]
    fn probabilities_and_single_tokens_are_compared_too() {
        let ours = [1.0, 2.0, 3.0];
        // log_softmax([1, 2, 3])
        assert!(check(&Scores::Logprobs(vec![(2, -0.4076), (1, -1.4076)]), &ours).passed);
        assert!(!check(&Scores::Logprobs(vec![(2, -1.0)]), &ours).passed);
        assert!(check(&Scores::Chosen(2), &ours).passed && !check(&Scores::Chosen(1), &ours).passed);
        assert!(!check(&Scores::Chosen(9), &ours).passed);
    }
}
