//! S13: what planning and committing a step costs the host, without a device.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use nvllm_core::{RowOutput, SamplingParams, Step, StepId, StepOutput, TokenId};
use nvllm_sched::{GroupConfig, NewSequence, SchedConfig, Scheduler};

use super::contract::Workload;
use super::figures::{Figures, median_of};
use crate::context::Context;
use crate::measure::Measurement;
use crate::record::{Case, Record, Series, names};
use crate::{BenchError, Result};

/// Decode steps of the scheduler alone.
pub(super) struct Sched;

/// Sequences that run.
const BATCHES: [usize; 5] = [1, 64, 256, 1024, 4096];
/// Tokens of each prompt, and decode steps that are timed.
const PROMPT_LEN: usize = 100;
const STEPS: usize = 512;
const QUICK_STEPS: usize = 128;
const BLOCK_LEN: usize = 16;

impl Workload for Sched {
    fn name(&self) -> &'static str {
        "sched"
    }

    fn code(&self) -> &'static str {
        "S13"
    }

    fn definition(&self) -> &'static str {
        "seconds of host time that the scheduler takes to plan and to commit a decode step of 1 to 4,096 sequences, two steps in \
         flight, prefixes kept: no device runs and no other thread"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let steps = if bench.settings.quick { QUICK_STEPS } else { STEPS };
        for batch in BATCHES {
            bench.progress(&format!("sched: {batch} sequences"));
            let [plan, commit] = time(batch, steps)?;
            let both = plan.iter().zip(&commit).map(|(plan, commit)| plan + commit);
            let case = Case { batch: Some(batch), ..Case::default() };
            let series = vec![
                (names::HOST_SECONDS, Series::seconds(both)),
                (names::PLAN_SECONDS, Series::seconds(plan.iter().copied())),
                (names::COMMIT_SECONDS, Series::seconds(commit.iter().copied())),
            ];
            bench.record(self.name(), &case, Measurement { series, ..Measurement::default() })?;
        }
        Ok(())
    }

    fn figures(&self, record: &Record) -> Figures {
        let [plan, commit] = [names::PLAN_SECONDS, names::COMMIT_SECONDS].map(|name| median_of(record, name));
        Figures {
            headline: format!(
                "{} a step: plan {plan}, commit {commit}",
                median_of(record, names::HOST_SECONDS)
            ),
            rate: None,
            limit: "-".into(),
        }
    }
}

/// Seconds to plan and to commit each of `steps` decode steps of `batch` sequences.
fn time(batch: usize, steps: usize) -> Result<[Vec<f64>; 2]> {
    // Sequences come and go outside of the steps that are timed.
    let output_len = steps + 8;
    let context = PROMPT_LEN + output_len;
    let groups = vec![GroupConfig { num_blocks: batch * context.div_ceil(BLOCK_LEN) + 1, window: None }];
    let config = SchedConfig {
        step_tokens: batch * PROMPT_LEN,
        step_outputs: batch,
        seqs: batch,
        context,
        max_positions: context,
        block_len: BLOCK_LEN,
        groups,
        max_in_flight: 2,
        prefix_cache: true,
        tenant_weights: vec![1],
    };
    let refused = |e: nvllm_sched::SchedError| BenchError::Request { number: 0, problem: e.to_string() };
    let mut sched = Scheduler::new(config).map_err(refused)?;
    for seq in 0..batch {
        // Of all lengths, so that in each step some sequences come to a new block.
        let prompt: Vec<_> =
            (0..PROMPT_LEN - seq % BLOCK_LEN).map(|at| TokenId((at * 31 + seq * 7) as u32 % 5000)).collect();
        let sampling =
            Arc::new(SamplingParams { stop_tokens: vec![TokenId(1)], ..SamplingParams::default() });
        let new = NewSequence { max_tokens: Some(output_len), ..NewSequence::new(prompt, sampling) };
        sched.add(new).map_err(refused)?;
    }
    let mut in_flight: VecDeque<(StepId, StepOutput)> = VecDeque::new();
    let (mut plan, mut commit) = (Vec::new(), Vec::new());
    while commit.len() < steps {
        while in_flight.len() < 2 {
            let begin = Instant::now();
            let step = sched.plan();
            let seconds = begin.elapsed().as_secs_f64();
            let Some(step) = step else { break };
            // The first is the prompts'.
            if step.num_tokens() == batch {
                plan.push(seconds);
            }
            in_flight.push_back((step.id, sampled(&step)));
        }
        let Some((id, output)) = in_flight.pop_front() else { break };
        let begin = Instant::now();
        let events = sched.commit(id, output).map_err(refused)?;
        let seconds = begin.elapsed().as_secs_f64();
        if plan.len() > commit.len() + in_flight.len() {
            commit.push(seconds);
        }
        drop(events);
    }
    plan.truncate(commit.len());
    Ok([plan, commit])
}

/// A token for each row of a step.
fn sampled(step: &Step) -> StepOutput {
    let row = |_| RowOutput { token: Some(TokenId(7)), ..RowOutput::default() };
    StepOutput { rows: (0..step.num_outputs()).map(row).collect(), ..StepOutput::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decode_step_is_timed_once() {
        for batch in [1, 5] {
            let [plan, commit] = time(batch, 20).unwrap();
            assert_eq!((plan.len(), commit.len()), (20, 20));
            assert!(plan.iter().chain(&commit).all(|seconds| *seconds > 0.0));
        }
    }
}
