//! S15: what drawing a token costs a decode step, against taking the likeliest.

use nvllm_core::SamplingParams;
use nvllm_core::program::Counts;

use super::contract::Workload;
use super::figures::{Figures, limit, median_of};
use crate::Result;
use crate::context::Context;
use crate::measure::stepper::{self, Stepper};
use crate::measure::{Measurement, Roof, roof_series, turns};
use crate::record::{Case, Record, Series, names};

/// The same decode steps with each set of sampling parameters, in turns.
pub(super) struct Sampling;

const BATCHES: [usize; 4] = [1, 8, 64, 256];
const QUICK_BATCHES: [usize; 2] = [1, 8];
/// Tokens that each sequence holds; penalties count as many of a prompt.
const HELD: usize = 128;
/// Rounds, each one turn of every set, and steps of a turn.
const ROUNDS: usize = 16;
const QUICK_ROUNDS: usize = 3;
const TURN_STEPS: usize = 16;

impl Workload for Sampling {
    fn name(&self) -> &'static str {
        "sampling"
    }

    fn code(&self) -> &'static str {
        "S15"
    }

    fn definition(&self) -> &'static str {
        "seconds of a decode step of 1, 8, 64 and 256 sequences that hold 128 tokens each: greedy, and drawn with a temperature alone, \
         top_k 20, top_k 1,000, top_p 0.95, min_p 0.05, penalties over 128 tokens of a prompt and the output, and with all of them, in turns"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let model = bench.open()?;
        let backend = bench.backend()?;
        let quick = bench.settings.quick;
        let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
        // A turn begins at `HELD` again, with a step that is not timed, and ends with one.
        let tokens = HELD + TURN_STEPS + 2;
        if tokens > model.spec.max_positions {
            bench.skip("sampling", &format!("the model has {} positions", model.spec.max_positions));
            return Ok(());
        }
        let batches = match &bench.settings.sizes.batch[..] {
            [] if quick => QUICK_BATCHES.to_vec(),
            [] => BATCHES.to_vec(),
            given => given.to_vec(),
        };
        let sets = sets();
        for batch in batches {
            let what = format!("sampling, batch {batch}");
            let limits = bench.limits(&model, batch, tokens, batch)?;
            if !bench.fits(&what, limits.kv_bytes + model.weight_bytes()?) {
                continue;
            }
            let mut stepper = Stepper::load(backend.as_ref(), &model, &limits)?;
            stepper.fill_cache()?;
            let mut roofs: Vec<Roof> = Vec::new();
            let mut seconds = vec![Vec::new(); sets.len()];
            for round in 0..rounds {
                bench.progress(&format!("{what}: {} of {rounds}", round + 1));
                for turn in turns(round, 1 + sets.len()) {
                    let Some(at) = turn.checked_sub(1) else {
                        roofs.push(bench.roof(&backend));
                        continue;
                    };
                    stepper.place_with(batch, HELD, &sets[at].1, HELD)?;
                    seconds[at].extend(stepper.decode_run(batch, TURN_STEPS)?);
                }
            }
            let weights = stepper::weights(&model, backend.as_ref(), &limits)?;
            let counts = Counts::decode(batch, HELD + TURN_STEPS / 2);
            for ((state, _), seconds) in sets.iter().zip(seconds) {
                let state = Some((*state).to_owned());
                let case = Case { batch: Some(batch), context: Some(HELD), state, ..Case::default() };
                let mut series = roof_series(&roofs);
                series.push((names::STEP_SECONDS, Series::seconds(seconds)));
                let cost = Some(stepper::cost(&model, &limits, &weights, &[counts]));
                bench.record(self.name(), &case, Measurement { cost, series, ..Measurement::default() })?;
            }
        }
        Ok(())
    }

    fn figures(&self, record: &Record) -> Figures {
        let seconds = record.median(names::STEP_SECONDS);
        Figures {
            headline: format!("{} a step", median_of(record, names::STEP_SECONDS)),
            rate: record.case.batch.zip(seconds).map(|(batch, seconds)| batch as f64 / seconds),
            limit: limit(record),
        }
    }
}

/// What is drawn with, by name; the first is greedy.
fn sets() -> [(&'static str, SamplingParams); 8] {
    let drawn = SamplingParams { temperature: 0.7, seed: 1, ..SamplingParams::default() };
    let penalties = SamplingParams {
        repetition_penalty: 1.1,
        presence_penalty: 0.5,
        frequency_penalty: 0.5,
        ..drawn.clone()
    };
    [
        ("greedy", SamplingParams::default()),
        ("temperature", drawn.clone()),
        ("top_k 20", SamplingParams { top_k: 20, ..drawn.clone() }),
        ("top_k 1000", SamplingParams { top_k: 1000, ..drawn.clone() }),
        ("top_p", SamplingParams { top_p: 0.95, ..drawn.clone() }),
        ("min_p", SamplingParams { min_p: 0.05, ..drawn }),
        ("penalties", penalties.clone()),
        ("all", SamplingParams { top_k: 20, top_p: 0.95, min_p: 0.05, ..penalties }),
    ]
}
