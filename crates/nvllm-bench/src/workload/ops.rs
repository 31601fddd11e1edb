//! S0: where a step's time goes, op by op.

use std::slice::from_ref;

use nvllm_core::program::{Counts, Node, OpCost};
use nvllm_core::{Program, StepProfile};

use super::contract::Workload;
use super::figures::{Figures, limit, median_of};
use crate::context::Context;
use crate::measure::stepper::{self, Stepper};
use crate::measure::{Measurement, Roof, roof_series};
use crate::record::{Case, Cost, Record, Series, names};
use crate::{BenchError, Result};

/// Profiled steps, the ops of a kind taken together.
pub(super) struct Ops;

/// Tokens of the prompt, and of the context of the decoded ones.
const LEN: usize = 512;
/// Measurements of the limits, each beside one turn.
const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 2;
/// Steps of one turn when decoding.
const TURN_STEPS: usize = 8;

/// What takes less of a step than this is too short to be told from the clock: tables leave it out.
pub(crate) const LEAST_SHARE: f64 = 0.01;

/// Ops of a step that do the same: the same op over weights of the same shape, one in each layer.
struct Kind {
    name: String,
    cost: Cost,
    /// Seconds of all of them together, one a step.
    seconds: Vec<f64>,
}

impl Kind {
    /// What it takes in one step.
    fn mean_cost(&self) -> Cost {
        let num = self.seconds.len().max(1) as f64;
        Cost { bytes: self.cost.bytes / num, flops: self.cost.flops / num }
    }
}

impl Workload for Ops {
    fn name(&self) -> &'static str {
        "ops"
    }

    fn code(&self) -> &'static str {
        "S0"
    }

    fn definition(&self) -> &'static str {
        "seconds of each kind of op in one step, all layers together, every op timed by itself: a decode step of one sequence of 512 \
         tokens, and a prompt of 512; the limit counts all bytes, also of values that stay in a cache"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let model = bench.open()?;
        let len = LEN.min(bench.step_tokens).min(model.spec.max_positions / 2).max(1);
        let rounds = if bench.settings.quick { QUICK_ROUNDS } else { ROUNDS };
        let limits = bench.limits(&model, 1, len + rounds * TURN_STEPS + 1, len)?;
        if !bench.fits("ops", limits.kv_bytes + model.weight_bytes()?) {
            return Ok(());
        }
        let backend = bench.backend()?;
        let weights = stepper::weights(&model, backend.as_ref(), &limits)?;
        let prompt = bench.prompts()?.get(0, len);
        let mut stepper = Stepper::load(backend.as_ref(), &model, &limits)?;
        stepper.prefill(from_ref(&prompt))?;
        let program = &stepper.program()?.clone();
        let prefill = Case { batch: Some(1), prompt_len: Some(len), ..Case::default() };
        let decode = Case { batch: Some(1), context: Some(len), ..Case::default() };
        // Decoding goes on from the prompt that was prefilled last.
        for (case, num_steps) in [(prefill, 1), (decode, TURN_STEPS)] {
            let costs = |at: usize| {
                let counts = if num_steps == 1 { Counts::prefill(len) } else { Counts::decode(1, len + at) };
                (program.costs(&counts, &limits, &weights), program.sampling_cost(&counts))
            };
            let mut kinds = Vec::new();
            let mut roofs: Vec<Roof> = Vec::new();
            for round in 0..rounds {
                bench.progress(&format!("ops, {case}: {} of {rounds}", round + 1));
                roofs.push(bench.roof(&backend));
                let profiled = stepper.profiled(|stepper| match num_steps {
                    1 => stepper.prefill(from_ref(&prompt)).map(|_| ()),
                    _ => (0..num_steps).try_for_each(|_| stepper.decode(1).map(|_| ())),
                });
                let profiled = match profiled {
                    Err(BenchError::Core(reason)) => {
                        bench.skip("ops", &reason.to_string());
                        return Ok(());
                    }
                    other => other?,
                };
                for (step, (_, profile)) in profiled.iter().enumerate() {
                    add(&mut kinds, program, &costs(round * num_steps + step), profile);
                }
            }
            let step: f64 = kinds.iter().flat_map(|kind| &kind.seconds).sum();
            let large = kinds.iter().filter(|kind| kind.seconds.iter().sum::<f64>() >= LEAST_SHARE * step);
            let large: Vec<_> = large.map(|kind| (kind.mean_cost(), kind.seconds.as_slice())).collect();
            bench.check_roofs(&backend, &large, &mut roofs);
            for kind in kinds {
                let cost = kind.mean_cost();
                let mut series = roof_series(&roofs);
                series.push((names::STEP_SECONDS, Series::seconds(kind.seconds.iter().copied())));
                let case = Case { op: Some(kind.name), ..case.clone() };
                bench.record(
                    self.name(),
                    &case,
                    Measurement { cost: Some(cost), series, ..Measurement::default() },
                )?;
            }
        }
        Ok(())
    }

    fn figures(&self, record: &Record) -> Figures {
        let bytes = record.cost.map_or_else(String::new, |cost| format!(", {:.1} MB", cost.bytes / 1e6));
        let headline = median_of(record, names::STEP_SECONDS) + &bytes;
        Figures { headline, rate: None, limit: limit(record) }
    }
}

/// Adds one step's times to the kinds of its ops, in the order in which a step meets them first.
fn add(
    kinds: &mut Vec<Kind>,
    program: &Program,
    (costs, sampling): &(Vec<OpCost>, OpCost),
    profile: &StepProfile,
) {
    let num_steps = kinds.first().map_or(0, |kind| kind.seconds.len());
    for op in &profile.ops {
        let (name, cost) = match &op.nodes {
            Some(nodes) => {
                let names: Vec<_> =
                    program.nodes[nodes.clone()].iter().map(|node| name(program, node)).collect();
                (names.join(" + "), costs[nodes.clone()].iter().copied().sum())
            }
            None => ("sample".into(), *sampling),
        };
        let at = kinds.iter().position(|kind| kind.name == name).unwrap_or_else(|| {
            kinds.push(Kind { name, cost: Cost { bytes: 0.0, flops: 0.0 }, seconds: vec![0.0; num_steps] });
            kinds.len() - 1
        });
        let kind = &mut kinds[at];
        kind.cost.bytes += cost.bytes();
        kind.cost.flops += cost.flops;
        if kind.seconds.len() == num_steps {
            kind.seconds.push(0.0);
        }
        kind.seconds[num_steps] += op.seconds;
    }
}

/// `linear 4096x1024`: the op, and the shape of its weight if it has one.
fn name(program: &Program, node: &Node) -> String {
    let shape = node.op.weights().first().map(|id| &program.weights[id.index()].shape);
    match shape {
        Some(shape) if shape.len() > 1 => {
            let extents: Vec<String> = shape.iter().map(ToString::to_string).collect();
            format!("{} {}", node.op.stem(), extents.join("x"))
        }
        _ => node.op.stem().into(),
    }
}
