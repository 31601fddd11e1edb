//! S8: memory as planned against memory as taken.

use super::contract::Workload;
use super::figures::Figures;
use crate::context::Context;
use crate::measure::Measurement;
use crate::measure::stepper::Stepper;
use crate::record::{Case, Record, names};
use crate::{Result, machine};

/// A load, a full cache, a full step.
pub(super) struct Memory;

/// Sequences, and tokens of each.
const FULL: (usize, usize) = (16, 2048);
const QUICK: (usize, usize) = (4, 1024);

/// Memory as the system tells of it, where the backend computes.
enum Taken {
    /// Resident bytes of this process.
    Host(usize),
    /// Bytes that are free on the device.
    Device(usize),
}

impl Taken {
    /// `None` where the system does not tell. A backend made now tells what its device has now.
    fn now(bench: &Context) -> Result<Option<Self>> {
        let info = bench.backend()?.info();
        Ok(match info.driver {
            Some(_) => Some(Self::Device(info.memory_bytes)),
            None => machine::resident_bytes().map(Self::Host),
        })
    }

    const fn bytes(&self) -> usize {
        match self {
            Self::Host(bytes) | Self::Device(bytes) => *bytes,
        }
    }

    /// Names of the values before and after loading.
    const fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Host(_) => (names::RESIDENT_BEFORE_BYTES, names::RESIDENT_BYTES),
            Self::Device(_) => (names::DEVICE_FREE_BEFORE_BYTES, names::DEVICE_FREE_BYTES),
        }
    }
}

impl Workload for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn code(&self) -> &'static str {
        "S8"
    }

    fn definition(&self) -> &'static str {
        "bytes that the backend reports for weights, KV cache, arena and scratch, against what the device has less of, or on a CPU what \
         the process's resident memory has grown by, once every block is written and the largest step has run; and how many tokens of \
         KV cache this machine holds beside the rest"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let model = bench.open()?;
        let (seqs, context) = if bench.settings.quick { QUICK } else { FULL };
        let context = context.min(model.spec.max_positions);
        let case = Case { batch: Some(seqs), context: Some(context), ..Case::default() };
        let step_tokens = bench.step_tokens.min(context).max(seqs);
        let limits = bench.limits(&model, seqs, context, step_tokens)?;
        let what = format!("memory, {case}");
        if !bench.fits(&what, limits.kv_bytes + model.weight_bytes()?) {
            return Ok(());
        }
        let backend = bench.backend()?;
        let prompt = bench.prompts()?.get(0, step_tokens);
        let Some(before) = Taken::now(bench)? else {
            bench.skip(&what, "this system does not tell the memory of a process");
            return Ok(());
        };
        let mut stepper = Stepper::load(backend.as_ref(), &model, &limits)?;
        stepper.fill_cache()?;
        stepper.prefill(std::slice::from_ref(&prompt))?;
        stepper.place(seqs, context - 1)?;
        let Some(after) = Taken::now(bench)? else { return Ok(()) };
        let report = stepper.memory();
        let token_bytes =
            limits.kv_bytes / (1 + seqs * context.div_ceil(limits.block_len)) / limits.block_len;
        let blocks = limits.kv_bytes / (token_bytes * limits.block_len);
        let left = backend.info().memory_bytes.saturating_sub(report.total() - report.kv);
        let values = [
            (names::PLANNED_BYTES, report.total()),
            (names::WEIGHT_BYTES, report.weights),
            (names::KV_BYTES, report.kv),
            (before.names().0, before.bytes()),
            (after.names().1, after.bytes()),
            (names::KV_TOKEN_BYTES, token_bytes),
            (names::KV_TOKENS, (blocks - 1) * limits.block_len),
            (
                names::MOST_TOKENS,
                (left / token_bytes / limits.block_len).saturating_sub(1) * limits.block_len,
            ),
        ];
        let values = values.map(|(name, value)| (name, value as f64)).to_vec();
        bench.record(self.name(), &case, Measurement { values, ..Measurement::default() })
    }

    fn figures(&self, record: &Record) -> Figures {
        let value = |name: &str| record.values.get(name).copied().unwrap_or(f64::NAN);
        let planned = value(names::PLANNED_BYTES);
        // Records that were made before devices were asked hold the process's memory only.
        let on_device = value(names::DEVICE_FREE_BEFORE_BYTES) - value(names::DEVICE_FREE_BYTES);
        let resident = value(names::RESIDENT_BYTES) - value(names::RESIDENT_BEFORE_BYTES);
        let taken = if on_device.is_nan() { resident } else { on_device };
        Figures {
            headline: format!(
                "{:.3} GB planned, {:.3} GB taken; at most {} tokens of {} bytes",
                planned / 1e9,
                taken / 1e9,
                value(names::MOST_TOKENS),
                value(names::KV_TOKEN_BYTES)
            ),
            rate: None,
            limit: format!("{:.1} % of the plan", 100.0 * taken / planned),
        }
    }
}
