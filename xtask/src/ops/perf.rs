//! How fast an op is, beside what the hardware allows.
//!
//! As many copies of the op as the model has run one after another in a step, each over weights and
//! a cache layer of its own, so that these come from memory as they do in a model; values are where
//! the op before has left them. The backend times every op. Limits are measured right before.

use std::collections::BTreeMap;

use anyhow::Result;
use nvllm_bench::record::{self, Series, names};
use nvllm_bench::{MatmulRates, stats};
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
    /// Seconds of each copy in each step.
    times: Vec<f64>,
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
    let (copies, cost) = (timed.copies(), timed.cost);
    Ok((!times.is_empty()).then_some(Timing { times, copies, cost, read, matmul }))
}

impl Timing {
    fn median(&self) -> f64 {
        stats::median(self.times.iter().copied())
    }

    /// What one copy takes at least, for a record.
    pub(super) fn cost(&self) -> record::Cost {
        record::Cost { bytes: self.cost.bytes, flops: self.cost.flops }
    }

    /// The raw times, and the limits beside them as far as they are known.
    pub(super) fn series(&self) -> BTreeMap<String, Series> {
        let times = Some((names::STEP_SECONDS, Series::seconds(self.times.iter().copied())));
        let read = self.read.map(|rate| (names::READ_BANDWIDTH, Series::whole([rate])));
        let matmul = self.matmul.map(|rate| (names::MATMUL_RATE, Series::whole([rate])));
        [times, read, matmul].into_iter().flatten().map(|(name, series)| (name.to_owned(), series)).collect()
    }

    /// The least time that memory, then that arithmetic allows.
    fn least(&self) -> [Option<f64>; 2] {
        [self.read.map(|rate| self.cost.bytes / rate), self.matmul.map(|rate| self.cost.flops / rate)]
    }

    /// The share of the limit that binds, and whether that is memory.
    fn share(&self) -> Option<(f64, bool)> {
        let [memory, arithmetic] = self.least();
        let (memory, arithmetic) = (memory?, arithmetic.unwrap_or(0.0));
        Some((memory.max(arithmetic) / self.median(), memory >= arithmetic))
    }

    pub(super) fn json(&self) -> Value {
        let median = self.median();
        json!({
            "median_seconds": median, "num_times": self.times.len(), "copies": self.copies,
            "bytes": self.cost.bytes, "flops": self.cost.flops,
            "bytes_per_second": self.cost.bytes / median,
            "flops_per_second": self.cost.flops / median,
            "read_bandwidth": self.read, "matmul_rate": self.matmul,
            "share_of_limit": self.share().map(|(share, _)| share),
        })
    }
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { times, cost, copies, .. } = self;
        let median = self.median();
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
        write!(f, "  ({} times of {copies} copies)", times.len())
    }
}

#[cfg(test)]
impl Timing {
    /// Of these times, the rest as it may be.
    pub(super) fn of_times(times: Vec<f64>) -> Self {
        let cost = Cost { bytes: 10.0, flops: 1.0 };
        Self { times, copies: 1, cost, read: Some(10.0), matmul: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_binds_is_named() {
        let timing = |bytes, flops| Timing {
            times: vec![2.0, 1.0, 3.0],
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
}
