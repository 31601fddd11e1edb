//! S12: what the context that a model was loaded for costs a step that does not use it, and what
//! the sampling parameters of its requests cost one.

use nvllm_core::program::Counts;
use nvllm_core::{Limits, SamplingParams, TokenId};

use super::contract::Workload;
use super::figures::{Figures, limit, median_of};
use crate::Result;
use crate::context::Context;
use crate::measure::stepper::{self, Stepper};
use crate::measure::{Measurement, Roof, roof_series, turns};
use crate::record::{Case, Record, Series, names};

/// The same decode steps under a short and a long context limit, in turns; then under the short one
/// with and without penalties, biases and a least number of tokens.
pub(super) struct Inputs;

/// Sequences, and tokens that each holds.
const SEQS: usize = 256;
const HELD: usize = 512;
/// Limits, in tokens of one sequence.
const LIMITS: [usize; 2] = [1024, 40_960];
/// Rounds, each one turn under either limit, and steps of a turn.
const ROUNDS: usize = 16;
const QUICK_ROUNDS: usize = 4;
const TURN_STEPS: usize = 8;
/// Sequences of the steps with sampling parameters, and biases of each.
const SAMPLED_SEQS: usize = 64;
const BIASES: u32 = 16;

impl Workload for Inputs {
    fn name(&self) -> &'static str {
        "inputs"
    }

    fn code(&self) -> &'static str {
        "S12"
    }

    fn definition(&self) -> &'static str {
        "seconds of a greedy decode step of 256 sequences that hold 512 tokens each, and bytes of inputs that it copies to the device, \
         with the model loaded for 1,024 and for 40,960 tokens a sequence and KV blocks for 1,024 under both, in turns; and of 64 \
         sequences, greedy alone and with all penalties, 16 biases and min_tokens, in turns"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let backend = bench.backend()?;
        if backend.info().driver.is_none() {
            bench.skip("inputs", "a host backend copies nothing to a device");
            return Ok(());
        }
        let model = bench.open()?;
        let rounds = if bench.settings.quick { QUICK_ROUNDS } else { ROUNDS };
        // One more step a turn than is timed, and one before them.
        let tokens = HELD + rounds * (TURN_STEPS + 1) + 2;
        let limits = LIMITS.map(|context| context.min(model.spec.max_positions));
        if limits[0] < tokens || limits[0] == limits[1] {
            bench.skip("inputs", &format!("the model has {} positions", model.spec.max_positions));
            return Ok(());
        }
        let short = bench.limits(&model, SEQS, limits[0], SEQS)?;
        if !bench.fits("inputs", 2 * (short.kv_bytes + model.weight_bytes()?)) {
            return Ok(());
        }
        let mut steppers = Vec::new();
        for context in limits {
            // Blocks for what is used: only the limit differs.
            let limits = Limits { context, ..short.clone() };
            let mut stepper = Stepper::load(backend.as_ref(), &model, &limits)?;
            stepper.fill_cache()?;
            stepper.place(SEQS, HELD)?;
            steppers.push(stepper);
        }
        let (mut roofs, mut seconds) = (Vec::<Roof>::new(), [Vec::new(), Vec::new()]);
        for round in 0..rounds {
            bench.progress(&format!("inputs: {} of {rounds}", round + 1));
            for turn in turns(round, 3) {
                match turn {
                    0 => roofs.push(bench.roof(&backend)),
                    at => seconds[at - 1].extend(steppers[at - 1].decode_run(SEQS, TURN_STEPS)?),
                }
            }
        }
        let weights = stepper::weights(&model, backend.as_ref(), &short)?;
        let counts = Counts::decode(SEQS, HELD + rounds * (TURN_STEPS + 1) / 2);
        for ((context, stepper), seconds) in limits.into_iter().zip(&steppers).zip(seconds) {
            let state = Some(format!("limit {context}"));
            let case = Case { batch: Some(SEQS), context: Some(HELD), state, ..Case::default() };
            let mut series = roof_series(&roofs);
            series.push((names::STEP_SECONDS, Series::seconds(seconds)));
            let values = vec![(names::INPUT_BYTES, stepper.input_bytes() as f64)];
            let cost = Some(stepper::cost(&model, &short, &weights, &[counts]));
            bench.record(self.name(), &case, Measurement { cost, series, values })?;
        }
        let Some(stepper) = steppers.first_mut() else { return Ok(()) };
        let mut seconds = [Vec::new(), Vec::new()];
        let params = [SamplingParams::default(), with_everything()];
        for round in 0..rounds {
            for at in turns(round, 2) {
                stepper.place_with(SAMPLED_SEQS, HELD, &params[at], 0)?;
                seconds[at].extend(stepper.decode_run(SAMPLED_SEQS, TURN_STEPS)?);
            }
        }
        let counts = Counts::decode(SAMPLED_SEQS, HELD + TURN_STEPS / 2);
        for (state, seconds) in ["greedy", "penalties, biases, min_tokens"].into_iter().zip(seconds) {
            let (batch, state) = (Some(SAMPLED_SEQS), Some(state.into()));
            let case = Case { batch, context: Some(HELD), state, ..Case::default() };
            let mut series = roof_series(&roofs);
            series.push((names::STEP_SECONDS, Series::seconds(seconds)));
            let values = vec![(names::INPUT_BYTES, stepper.input_bytes() as f64)];
            let cost = Some(stepper::cost(&model, &short, &weights, &[counts]));
            bench.record(self.name(), &case, Measurement { cost, series, values })?;
        }
        Ok(())
    }

    fn figures(&self, record: &Record) -> Figures {
        let bytes = record.values.get(names::INPUT_BYTES).copied().unwrap_or(f64::NAN);
        Figures {
            headline: format!(
                "{} a step, {:.1} kB of inputs",
                median_of(record, names::STEP_SECONDS),
                bytes / 1e3
            ),
            rate: record
                .median(names::STEP_SECONDS)
                .map(|seconds| record.case.batch.unwrap_or(SEQS) as f64 / seconds),
            limit: limit(record),
        }
    }
}

/// Greedy, with every parameter that the sampler has to look up for each token.
fn with_everything() -> SamplingParams {
    SamplingParams {
        repetition_penalty: 1.1,
        presence_penalty: 0.1,
        frequency_penalty: 0.1,
        logit_bias: (0..BIASES).map(|id| (TokenId(id), -1.0)).collect(),
        min_tokens: 1 << 20,
        stop_tokens: vec![TokenId(BIASES)],
        ..SamplingParams::default()
    }
}
