//! S0: time of a decode step by batch and context.

use nvllm_core::program::Counts;
use nvllm_core::{Backend, ExactHeadCounts};
use nvllm_engine::Model;

use super::contract::Workload;
use super::figures::{Figures, limit, median_of};
use crate::Result;
use crate::context::Context;
use crate::measure::stepper::{self, Stepper};
use crate::measure::{MeasuredBackend, Measurement, Roof, roof_series, settle, turns};
use crate::peer::Peer;
use crate::record::{Case, Cost, Record, Series, names};

/// One step after another, interleaved with measurements of the limits and with the peers.
pub(super) struct Decode;

const BATCHES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const CONTEXTS: [usize; 3] = [128, 1024, 8192];
/// What `--quick` runs: batch and context.
const QUICK: [(usize, usize); 3] = [(1, 128), (8, 128), (1, 1024)];
/// Rounds at least and at most: each is one measurement of the limits and one turn of every engine.
const ROUNDS: (usize, usize) = (3, 16);
const QUICK_ROUNDS: usize = 4;
/// Steps of one turn; fewer where a step takes long.
const TURN_STEPS: usize = 8;
/// Seconds that a turn should not exceed by much.
const TURN_SECONDS: f64 = 1.0;

/// One case with its schedule.
struct Plan {
    batch: usize,
    context: usize,
    rounds: usize,
    turn_steps: usize,
}

impl Plan {
    /// Steps of all turns, each with one that is not timed, and one before them.
    fn steps(&self) -> usize {
        1 + self.rounds * (self.turn_steps + 1)
    }

    /// Tokens that each sequence comes to.
    fn reserve(&self) -> usize {
        self.context + self.steps() + 1
    }

    fn case(&self) -> Case {
        Case { batch: Some(self.batch), context: Some(self.context), ..Case::default() }
    }
}

impl Workload for Decode {
    fn name(&self) -> &'static str {
        "decode"
    }

    fn code(&self) -> &'static str {
        "S0"
    }

    fn definition(&self) -> &'static str {
        "seconds of each greedy step, sampling included, of 1 to 256 sequences that hold 128, 1,024 or 8,192 tokens; our cache is \
         filled with drawn numbers, a peer's by a real prompt; limits are measured beside every turn"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let model = bench.open()?;
        let backend = bench.backend()?;
        let roof = bench.roof(&backend);
        let mut peers = bench.take_peers()?;
        let sizes = &bench.settings.sizes;
        let all: Vec<(usize, usize)> = if let Some(pairs) = sizes.pairs(&sizes.context, (1, 128)) {
            pairs
        } else if bench.settings.quick {
            QUICK.to_vec()
        } else {
            CONTEXTS.iter().flat_map(|&context| BATCHES.map(|batch| (batch, context))).collect()
        };
        let mut result = Ok(());
        for (batch, context) in all {
            result = self.case(bench, &model, &backend, roof, &mut peers, (batch, context));
            if result.is_err() {
                break;
            }
        }
        bench.put_peers(peers);
        result
    }

    fn figures(&self, record: &Record) -> Figures {
        let batch = record.case.batch.unwrap_or(1) as f64;
        Figures {
            headline: format!("{} a step", median_of(record, names::STEP_SECONDS)),
            rate: record.median(names::STEP_SECONDS).map(|seconds| batch / seconds),
            limit: limit(record),
        }
    }
}

impl Decode {
    fn case(
        &self,
        bench: &mut Context,
        model: &Model,
        backend: &MeasuredBackend,
        roof: Roof,
        peers: &mut [Peer],
        (batch, context): (usize, usize),
    ) -> Result<()> {
        let limits = bench.limits(model, batch, context, batch)?;
        let weights = stepper::weights(model, backend.as_ref(), &limits)?;
        let cost = |context| stepper::cost(model, &limits, &weights, &[Counts::decode(batch, context)]);
        let step_seconds = 1.5 * roof.seconds(cost(context));
        let Some(plan) = plan(bench, model, (batch, context), step_seconds, 1 + peers.len()) else {
            return Ok(());
        };
        let what = format!("decode, {}", plan.case());
        let limits = bench.limits(model, batch, plan.reserve(), batch)?;
        if !bench.fits(&what, limits.kv_bytes + model.weight_bytes()?) {
            return Ok(());
        }
        bench.progress(&what);
        // The mean over the steps: the context grows by one a step.
        let mean = cost(context + plan.steps() / 2);
        let ready =
            fill_peers(bench, &plan, peers, prompt_seconds(bench, model, backend.as_ref(), roof, &plan)?)?;
        let mut stepper = Stepper::load(backend.as_ref(), model, &limits)?;
        stepper.fill_cache()?;
        stepper.place(batch, context)?;
        let mut turns = Turns::run(bench, &what, &plan, &mut stepper, backend, peers, ready)?;
        bench.check_roofs(backend, &[(mean, &turns.ours)], &mut turns.roofs);
        turns.record(self.name(), bench, &plan, mean, peers)
    }
}

/// The schedule of a case; `None` if it is skipped.
fn plan(
    bench: &mut Context,
    model: &Model,
    (batch, context): (usize, usize),
    step_seconds: f64,
    engines: usize,
) -> Option<Plan> {
    let turn_steps = ((TURN_SECONDS / step_seconds) as usize).clamp(1, TURN_STEPS);
    let round_seconds = turn_steps as f64 * step_seconds * engines as f64 + 0.5;
    let most = if bench.settings.quick { QUICK_ROUNDS } else { ROUNDS.1 };
    let rounds = ((bench.settings.case_seconds / round_seconds) as usize).clamp(ROUNDS.0, most);
    let plan = Plan { batch, context, rounds, turn_steps };
    let what = format!("decode, {}", plan.case());
    let positions = model.spec.max_positions;
    if plan.reserve() > positions {
        bench.skip(
            &what,
            &format!("it comes to {} tokens; the model has {positions} positions", plan.reserve()),
        );
        return None;
    }
    bench.affords(&what, rounds as f64 * round_seconds).then_some(plan)
}

/// Seconds that computing the case's context takes, about.
fn prompt_seconds(
    bench: &Context,
    model: &Model,
    backend: &dyn Backend,
    roof: Roof,
    plan: &Plan,
) -> Result<f64> {
    let limits = bench.limits(model, 1, plan.context, bench.step_tokens)?;
    let steps = stepper::prefill_counts(&[plan.context], limits.step_tokens);
    let cost = stepper::cost(model, &limits, &stepper::weights(model, backend, &limits)?, &steps);
    Ok(2.0 * plan.batch as f64 * roof.seconds(cost))
}

/// Runs the peers' prompts and one step; which of them take part.
fn fill_peers(bench: &mut Context, plan: &Plan, peers: &mut [Peer], seconds: f64) -> Result<Vec<bool>> {
    let texts = bench.prompts()?;
    let prompts: Vec<_> = (0..plan.batch).map(|slot| texts.get(slot, plan.context)).collect();
    let mut ready = Vec::new();
    for peer in peers {
        let what = format!("{} in decode, {}", peer.engine.name, plan.case());
        let can = peer.can("decode").map_err(|reason| bench.skip(&what, &reason)).is_ok()
            && bench.affords(&what, seconds);
        bench.progress(&what);
        let filled = can && {
            let filled = peer.prefill(&prompts, plan.reserve()).and_then(|_| peer.decode(1));
            filled.map_err(|reason| bench.skip(&what, &reason)).is_ok()
        };
        ready.push(filled);
    }
    Ok(ready)
}

/// What the turns of a case gave.
struct Turns {
    roofs: Vec<Roof>,
    ours: Vec<f64>,
    /// By peer; empty of those that do not take part.
    theirs: Vec<Vec<f64>>,
    /// Of our steps, if they ran with an exact head.
    exact_head: ExactHeadCounts,
}

impl Turns {
    fn run(
        bench: &mut Context,
        what: &str,
        plan: &Plan,
        stepper: &mut Stepper,
        backend: &MeasuredBackend,
        peers: &mut [Peer],
        mut ready: Vec<bool>,
    ) -> Result<Self> {
        let mut all = Self {
            roofs: Vec::new(),
            ours: Vec::new(),
            theirs: vec![Vec::new(); peers.len()],
            exact_head: ExactHeadCounts::default(),
        };
        for round in 0..plan.rounds {
            bench.progress(&format!("{what}: {} of {}", round + 1, plan.rounds));
            for turn in turns(round, 2 + peers.len()) {
                match turn {
                    0 => all.roofs.push(bench.roof(backend)),
                    1 => all.ours.extend(stepper.decode_run(plan.batch, plan.turn_steps)?),
                    _ if ready[turn - 2] => {
                        settle();
                        match peers[turn - 2].decode(plan.turn_steps) {
                            Ok(seconds) => all.theirs[turn - 2].extend(seconds),
                            Err(reason) => {
                                bench.skip(&format!("{} in {what}", peers[turn - 2].engine.name), &reason);
                                ready[turn - 2] = false;
                            }
                        }
                        settle();
                    }
                    _ => {}
                }
            }
        }
        for (series, ready) in all.theirs.iter_mut().zip(ready) {
            if !ready {
                series.clear();
            }
        }
        all.exact_head = stepper.exact_head();
        Ok(all)
    }

    fn record(
        self,
        workload: &'static str,
        bench: &mut Context,
        plan: &Plan,
        cost: Cost,
        peers: &[Peer],
    ) -> Result<()> {
        let measured = |seconds: Vec<f64>| {
            let mut series = roof_series(&self.roofs);
            series.push((names::STEP_SECONDS, Series::seconds(seconds)));
            Measurement { cost: Some(cost), series, ..Measurement::default() }
        };
        let ours = Measurement { values: exact_head(self.exact_head), ..measured(self.ours.clone()) };
        bench.record(workload, &plan.case(), ours)?;
        for (peer, seconds) in peers.iter().zip(&self.theirs).filter(|(_, seconds)| !seconds.is_empty()) {
            bench.record_peer(workload, &plan.case(), peer, measured(seconds.clone()))?;
        }
        Ok(())
    }
}

/// What an exact head did, as a record has it; nothing if there is none.
fn exact_head(counts: ExactHeadCounts) -> Vec<(&'static str, f64)> {
    let ExactHeadCounts { rows, candidates, dense_rows } = counts;
    if rows + dense_rows == 0 {
        return Vec::new();
    }
    let share = dense_rows as f64 / (rows + dense_rows) as f64;
    vec![(names::HEAD_CANDIDATES, candidates as f64 / rows.max(1) as f64), (names::HEAD_DENSE_SHARE, share)]
}
