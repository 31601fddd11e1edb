//! S10: whether the backend computes what it should.

use super::contract::Workload;
use super::figures::Figures;
use crate::Result;
use crate::context::Context;
use crate::measure::Measurement;
use crate::record::{Case, Record, names};

/// The gate's own results as a record.
pub(super) struct Accuracy;

impl Workload for Accuracy {
    fn name(&self) -> &'static str {
        "accuracy"
    }

    fn code(&self) -> &'static str {
        "S10"
    }

    fn definition(&self) -> &'static str {
        "the gate that every run passes first: golden fixtures, the demo model's 16 greedy runs token for token, its perplexity of a \
         held-out text in windows of 1,024 tokens (with --quick of the text's first 16,384 tokens)"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let report = bench.gate.clone();
        let Some(perplexity) = report.perplexity else { return Ok(()) };
        let state = if perplexity.whole { "whole" } else { "prefix" };
        let case = Case { state: Some(state.into()), ..Case::default() };
        let mut values = vec![
            (names::PERPLEXITY, perplexity.value),
            (names::SCORED_TOKENS, perplexity.tokens as f64),
            (names::GOLDEN_EQUAL, report.golden.0 as f64),
            (names::GOLDEN_RUNS, report.golden.1 as f64),
        ];
        values.extend(perplexity.bits_per_byte.map(|bits| (names::BITS_PER_BYTE, bits)));
        bench.record(self.name(), &case, Measurement { values, ..Measurement::default() })
    }

    fn figures(&self, record: &Record) -> Figures {
        let value = |name: &str| record.values.get(name).copied().unwrap_or(f64::NAN);
        let bits = record.values.get(names::BITS_PER_BYTE).map(|bits| format!(", {bits:.3} bits a byte"));
        Figures {
            headline: format!(
                "perplexity {:.2} of {} tokens{}; {} of {} greedy runs equal",
                value(names::PERPLEXITY),
                value(names::SCORED_TOKENS),
                bits.unwrap_or_default(),
                value(names::GOLDEN_EQUAL),
                value(names::GOLDEN_RUNS)
            ),
            rate: None,
            limit: "-".into(),
        }
    }
}
