//! S9: whether company changes an answer: the table of `nvllm verify`, a record a row.

use std::sync::Arc;

use nvllm_core::Numerics;
use nvllm_engine::LoadOptions;
use nvllm_engine::verify::{Outcome, VerifyOptions, verify};

use super::contract::Workload;
use super::figures::Figures;
use crate::Result;
use crate::context::Context;
use crate::measure::Measurement;
use crate::record::{Case, Record, names};

/// Requests alone against the same under every variation.
pub(super) struct Verify;

impl Workload for Verify {
    fn name(&self) -> &'static str {
        "verify"
    }

    fn code(&self) -> &'static str {
        "S9"
    }

    fn definition(&self) -> &'static str {
        "drawn requests alone, one after another, against the same under other chunks, blocks, company, prefix hits, choices, \
         preemption and steps in flight: whether all tokens and log-probabilities are equal, bit for bit (`nvllm verify`)"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        if bench.settings.numerics == Numerics::Fast {
            bench.skip("verify", "numerics fast promises no equality");
            return Ok(());
        }
        let model = Arc::new(bench.open()?);
        let factory = bench.factory();
        let load = LoadOptions {
            activations: Some(bench.settings.activations),
            kv_cache_dtype: Some(bench.settings.kv_format),
            numerics: bench.settings.numerics,
            exact_head: bench.settings.exact_head,
            ..LoadOptions::default()
        };
        let options = VerifyOptions { load, quick: bench.settings.quick, ..VerifyOptions::default() };
        let report = verify(&model, &Arc::new(move || factory()), &options, &mut |progress| {
            bench.progress(&format!(
                "verify: {} of {}: {}",
                progress.done + 1,
                progress.total,
                progress.running
            ));
        })?;
        for row in report.rows {
            let case = Case { num_requests: Some(row.requests), state: Some(row.varied), ..Case::default() };
            let equal = if row.outcome == Outcome::Equal { 1.0 } else { 0.0 };
            let values = vec![(names::EQUAL, equal), (names::COMPARED_TOKENS, row.tokens as f64)];
            bench.record(self.name(), &case, Measurement { values, ..Measurement::default() })?;
        }
        Ok(())
    }

    fn figures(&self, record: &Record) -> Figures {
        let value = |name: &str| record.values.get(name).copied().unwrap_or(f64::NAN);
        let verdict = if value(names::EQUAL) == 1.0 { "equal" } else { "NOT EQUAL" };
        Figures {
            headline: format!("{verdict}: {} tokens with their logprobs", value(names::COMPARED_TOKENS)),
            rate: None,
            limit: "-".into(),
        }
    }
}
