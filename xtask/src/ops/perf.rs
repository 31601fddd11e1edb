//! How fast an op is, beside what the hardware allows.
//!
//! As many copies of the op as the model has run one after another in a step, each over weights and
//! a cache layer of its own, so that these come from memory as they do in a model; values are where
//! the op before has left them. The backend times every op. Limits are measured right before.

use anyhow::Result;
use nvllm_bench::MatmulRates;
use nvllm_conformance::Mismatch;
use nvllm_conformance::{Cost, Extents, ModelOp, Setting};
use nvllm_core::{Backend, CoreError, DType};
use serde_json::{Value, json};

/// Steps that are timed, at most and at least, after one that is not.
const STEPS: [usize; 2] = [30, 3];
/// Seconds of ops after which no more steps are timed.
const ENOUGH: f64 = 0.5;

/// Times of one op.
pub(super) struct Timing {
    median: f64,
    num_times: usize,
    copies: usize,
    cost: Cost,
    /// Bytes a second that memory gives, if that is known.
    read: Option<f64>,
    /// Multiplications and additions a second of matrix products, if that is known.
    matmul: Option<f64>,
}

/// Times `op`; nothing if the backend does not time ops or has no memory for it, which is said.
pub(super) fn measure(
    op: &ModelOp,
    backend: &dyn Backend,
    extents: Extents,
    setting: Setting,
    rates: &mut MatmulRates,
) -> Result<Option<Timing>> {
    let mut timed = match op.load(backend, extents, setting) {
        Ok(timed) => timed,
        Err(Mismatch::Refused { cause: CoreError::Unsupported { reason, .. }, .. }) => {
            eprintln!("{}: not timed: {reason}", op.name);
            return Ok(None);
        }
        Err(error @ Mismatch::Refused { cause: CoreError::DoesNotFit { .. }, .. }) => {
            eprintln!("{}: not timed: {error}", op.name);
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    // The first step touches pages and scratch for the first time.
    timed.run()?;
    let weights = setting.weights.plain().unwrap_or(DType::Bf16);
    let read = backend.measure_read_bandwidth()?;
    let matmul = rates.measure(backend, weights, setting.activations)?;
    let mut times = Vec::new();
    for at in 0..STEPS[0] {
        if at >= STEPS[1] && times.iter().sum::<f64>() > ENOUGH {
            break;
        }
        times.extend(timed.run()?);
    }
    Ok(median(&mut times).map(|median| Timing {
        median,
        num_times: times.len(),
        copies: timed.copies(),
        cost: timed.cost,
        read,
        matmul,
    }))
}

fn median(times: &mut [f64]) -> Option<f64> {
    times.sort_unstable_by(f64::total_cmp);
    let (lower, upper) = (times.get(times.len().checked_sub(1)? / 2)?, times.get(times.len() / 2)?);
    Some(f64::midpoint(*lower, *upper))
}

impl Timing {
    /// The least time that memory, then that arithmetic allows.
    fn least(&self) -> [Option<f64>; 2] {
        [self.read.map(|rate| self.cost.bytes / rate), self.matmul.map(|rate| self.cost.flops / rate)]
    }

    /// The share of the limit that binds, and whether that is memory.
    fn share(&self) -> Option<(f64, bool)> {
        let [memory, arithmetic] = self.least();
        let (memory, arithmetic) = (memory?, arithmetic.unwrap_or(0.0));
        Some((memory.max(arithmetic) / self.median, memory >= arithmetic))
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "median_seconds": self.median, "num_times": self.num_times, "copies": self.copies,
            "bytes": self.cost.bytes, "flops": self.cost.flops,
            "bytes_per_second": self.cost.bytes / self.median,
            "flops_per_second": self.cost.flops / self.median,
            "read_bandwidth": self.read, "matmul_rate": self.matmul,
            "share_of_limit": self.share().map(|(share, _)| share),
        })
    }
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { median, cost, copies, num_times, .. } = self;
        write!(
            f,
            "{:9.1} us  {:8.1} GB/s  {:9.1} GFLOP/s",
            1e6 * median,
            cost.bytes / median / 1e9,
            cost.flops / median / 1e9
        )?;
        match self.share() {
            Some((share, true)) if share > 1.0 => {
                write!(f, "  {share:.1} times what memory gives: caches hold it")?;
            }
            Some((share, true)) => write!(f, "  {:.1} % of what memory gives", 100.0 * share)?,
            Some((share, false)) => write!(f, "  {:.1} % of the rate of products", 100.0 * share)?,
            None => {}
        }
        write!(f, "  ({num_times} times of {copies} copies)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_binds_is_named() {
        let timing = |bytes, flops| Timing {
            median: 2.0,
            num_times: 3,
            copies: 1,
            cost: Cost { bytes, flops },
            read: Some(10.0),
            matmul: Some(100.0),
        };
        assert!(timing(10.0, 1.0).to_string().contains("50.0 % of what memory gives"));
        assert!(timing(10.0, 150.0).to_string().contains("75.0 % of the rate of products"));
        assert!(timing(40.0, 1.0).to_string().contains("2.0 times what memory gives"));
        assert_eq!(Timing { read: None, ..timing(1.0, 1.0) }.share(), None);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_two() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0, 10.0]), Some(2.5));
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut []), None);
    }
}
