//! S0: time of prompts by their length and number.

use super::contract::Workload;
use super::figures::{Figures, limit, median_of};
use crate::Result;
use crate::context::Context;
use crate::measure::stepper::{self, Stepper};
use crate::measure::{Measurement, Roof, roof_series, settle, turns};
use crate::peer::Peer;
use crate::record::{Case, Record, Series, names};

/// One prompt at a time, or several at once, the engines in turn.
pub(super) struct Prefill;

/// Prompts at once, and tokens of each.
const CASES: [(usize, usize); 9] =
    [(1, 128), (1, 256), (1, 512), (1, 1024), (1, 2048), (1, 4096), (1, 8192), (1, 16384), (16, 1024)];
const QUICK: [(usize, usize); 3] = [(1, 128), (1, 512), (16, 1024)];
/// Measurements of each case, at least and at most.
const ROUNDS: (usize, usize) = (2, 7);

impl Workload for Prefill {
    fn name(&self) -> &'static str {
        "prefill"
    }

    fn code(&self) -> &'static str {
        "S0"
    }

    fn definition(&self) -> &'static str {
        "seconds of one prompt of 128 to 16,384 tokens, and of 16 prompts of 1,024 submitted at once, from an empty cache to the first \
         token of each, in steps of as many tokens as an engine cuts them into"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let mut peers = bench.take_peers()?;
        let (quick, sizes) = (bench.settings.quick, &bench.settings.sizes);
        let cases = sizes
            .pairs(&sizes.prompt_len, (1, 512))
            .unwrap_or_else(|| if quick { QUICK.to_vec() } else { CASES.to_vec() });
        let result = cases.into_iter().try_for_each(|case| self.case(bench, &mut peers, case));
        bench.put_peers(peers);
        result
    }

    fn figures(&self, record: &Record) -> Figures {
        let tokens = (record.case.batch.unwrap_or(1) * record.case.prompt_len.unwrap_or(0)) as f64;
        Figures {
            headline: median_of(record, names::STEP_SECONDS),
            rate: record.median(names::STEP_SECONDS).map(|seconds| tokens / seconds),
            limit: limit(record),
        }
    }
}

impl Prefill {
    fn case(&self, bench: &mut Context, peers: &mut [Peer], (batch, len): (usize, usize)) -> Result<()> {
        let case = Case { batch: Some(batch), prompt_len: Some(len), ..Case::default() };
        let what = format!("prefill, {case}");
        let model = bench.open()?;
        if len >= model.spec.max_positions {
            bench.skip(&what, &format!("the model has {} positions", model.spec.max_positions));
            return Ok(());
        }
        let step_tokens = bench.step_tokens.min(batch * len);
        let limits = bench.limits(&model, batch, len + 1, step_tokens)?;
        let counts = stepper::prefill_counts(&vec![len; batch], step_tokens);
        let backend = bench.backend()?;
        let weights = stepper::weights(&model, backend.as_ref(), &limits)?;
        let cost = stepper::cost(&model, &limits, &weights, &counts);
        let case_seconds = 2.0 * bench.roof(&backend).seconds(cost);
        let round_seconds = case_seconds * (1 + peers.len()) as f64 + 0.5;
        let rounds = ((bench.settings.case_seconds / round_seconds) as usize).clamp(ROUNDS.0, ROUNDS.1);
        let rounds = if bench.settings.quick { ROUNDS.0 } else { rounds };
        if !bench.affords(&what, rounds as f64 * case_seconds)
            || !bench.fits(&what, limits.kv_bytes + model.weight_bytes()?)
        {
            return Ok(());
        }
        let mut stepper = Stepper::load(backend.as_ref(), &model, &limits)?;
        let texts = bench.prompts()?;
        let prompts: Vec<_> = (0..batch).map(|slot| texts.get(slot, len)).collect();
        let (mut roofs, mut ours): (Vec<Roof>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut theirs: Vec<Result<Vec<f64>, String>> =
            peers.iter().map(|peer| peer.can("prefill").map(|()| Vec::new())).collect();
        for round in 0..rounds {
            bench.progress(&format!("{what}: {} of {rounds}", round + 1));
            for turn in turns(round, 2 + peers.len()) {
                match turn {
                    0 => roofs.push(bench.roof(&backend)),
                    1 => ours.push(stepper.prefill(&prompts)?),
                    _ => {
                        settle();
                        let peer = &mut peers[turn - 2];
                        let so_far = std::mem::replace(&mut theirs[turn - 2], Ok(Vec::new()));
                        theirs[turn - 2] = so_far.and_then(|mut seconds| {
                            seconds.push(peer.prefill(&prompts, len + 1)?);
                            Ok(seconds)
                        });
                        settle();
                    }
                }
            }
        }
        bench.check_roofs(&backend, &[(cost, &ours)], &mut roofs);
        let measured = |seconds: &[f64]| {
            let mut series = roof_series(&roofs);
            series.push((names::STEP_SECONDS, Series::seconds(seconds.iter().copied())));
            Measurement { cost: Some(cost), series, ..Measurement::default() }
        };
        bench.record(self.name(), &case, measured(&ours))?;
        for (peer, result) in peers.iter().zip(&theirs) {
            match result {
                Ok(seconds) => bench.record_peer(self.name(), &case, peer, measured(seconds))?,
                Err(reason) => bench.skip(&format!("{} in {what}", peer.engine.name), reason),
            }
        }
        Ok(())
    }
}
