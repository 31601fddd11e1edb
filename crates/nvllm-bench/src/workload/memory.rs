//! S8: memory as planned against memory as taken.

use super::{Figures, Workload};
use crate::bench::Measurement;
use crate::record::{Case, Record, names};
use crate::stepper::Stepper;
use crate::{Bench, Result, host};

/// A load, a full cache, a full step.
pub(super) struct Memory;

/// Sequences, and tokens of each.
const FULL: (usize, usize) = (16, 2048);
const QUICK: (usize, usize) = (4, 1024);

impl Workload for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn code(&self) -> &'static str {
        "S8"
    }

    fn definition(&self) -> &'static str {
        "bytes that the backend reports for weights, KV cache, arena and scratch, against the growth of the process's resident memory \
         once every block is written and the largest step has run; and how many tokens of KV cache this machine holds beside the rest"
    }

    fn run(&self, bench: &mut Bench) -> Result<()> {
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
        let Some(before) = host::resident_bytes() else {
            bench.skip(&what, "this system does not tell the memory of a process");
            return Ok(());
        };
        let mut stepper = Stepper::load(backend.as_ref(), &model, &limits)?;
        stepper.fill_cache()?;
        stepper.prefill(std::slice::from_ref(&prompt))?;
        stepper.place(seqs, context - 1)?;
        let after = host::resident_bytes().unwrap_or(before);
        let report = stepper.memory();
        let token_bytes =
            limits.kv_bytes / (1 + seqs * context.div_ceil(limits.block_len)) / limits.block_len;
        let blocks = limits.kv_bytes / (token_bytes * limits.block_len);
        let left = backend.info().memory_bytes.saturating_sub(report.total() - report.kv);
        let values = [
            (names::PLANNED_BYTES, report.total()),
            (names::WEIGHT_BYTES, report.weights),
            (names::KV_BYTES, report.kv),
            (names::RESIDENT_BEFORE_BYTES, before),
            (names::RESIDENT_BYTES, after),
            (names::KV_TOKEN_BYTES, token_bytes),
            (names::KV_TOKENS, (blocks - 1) * limits.block_len),
            (
                names::MOST_TOKENS,
                (left / token_bytes / limits.block_len).saturating_sub(1) * limits.block_len,
            ),
        ];
        let values = values.map(|(name, value)| (name, value as f64)).to_vec();
        bench.keep(self, &case, Measurement { values, ..Measurement::default() })
    }

    fn figures(&self, record: &Record) -> Figures {
        let value = |name: &str| record.values.get(name).copied().unwrap_or(f64::NAN);
        let planned = value(names::PLANNED_BYTES);
        let taken = value(names::RESIDENT_BYTES) - value(names::RESIDENT_BEFORE_BYTES);
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
