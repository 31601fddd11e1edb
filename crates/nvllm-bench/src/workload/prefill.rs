//! S0: time of a prompt by its length.

use super::{Figures, Workload, limit, median_of};
use crate::bench::{Measurement, Roof, roof_series, settle, turns};
use crate::peer::Peer;
use crate::record::{Case, Record, Series, names};
use crate::stepper::{self, Stepper};
use crate::{Bench, Result};

/// One prompt at a time, the engines in turn.
pub(super) struct Prefill;

const LENGTHS: [usize; 8] = [128, 256, 512, 1024, 2048, 4096, 8192, 16384];
const QUICK: [usize; 2] = [128, 512];
/// Prompts of each length, at least and at most.
const ROUNDS: (usize, usize) = (2, 7);

impl Workload for Prefill {
    fn name(&self) -> &'static str {
        "prefill"
    }

    fn code(&self) -> &'static str {
        "S0"
    }

    fn definition(&self) -> &'static str {
        "seconds of one prompt of 128 to 16,384 tokens from an empty cache, first token sampled, ours in steps of at most 512 tokens, \
         a peer's as it cuts them"
    }

    fn run(&self, bench: &mut Bench) -> Result<()> {
        let mut peers = bench.take_peers()?;
        let lengths = if bench.settings.quick { &QUICK[..] } else { &LENGTHS[..] };
        let result = lengths.iter().try_for_each(|&len| self.case(bench, &mut peers, len));
        bench.put_peers(peers);
        result
    }

    fn figures(&self, record: &Record) -> Figures {
        let len = record.case.prompt_len.unwrap_or(0) as f64;
        Figures {
            headline: median_of(record, names::STEP_SECONDS),
            rate: record.median(names::STEP_SECONDS).map(|seconds| len / seconds),
            limit: limit(record),
        }
    }
}

impl Prefill {
    fn case(&self, bench: &mut Bench, peers: &mut [Peer], len: usize) -> Result<()> {
        let case = Case { batch: Some(1), prompt_len: Some(len), ..Case::default() };
        let what = format!("prefill, {case}");
        let model = bench.open()?;
        if len >= model.spec.max_positions {
            bench.skip(&what, &format!("the model has {} positions", model.spec.max_positions));
            return Ok(());
        }
        let step_tokens = bench.step_tokens.min(len);
        let limits = bench.limits(&model, 1, len + 1, step_tokens)?;
        let counts = stepper::prefill_counts(len, step_tokens);
        let cost = stepper::cost(&model, &limits, &stepper::formats(&model)?, &counts);
        let backend = bench.backend()?;
        let prompt_seconds = 2.0 * bench.roof(backend.as_ref()).seconds(cost);
        let round_seconds = prompt_seconds * (1 + peers.len()) as f64 + 0.5;
        let rounds = ((bench.settings.case_seconds / round_seconds) as usize).clamp(ROUNDS.0, ROUNDS.1);
        let rounds = if bench.settings.quick { ROUNDS.0 } else { rounds };
        if !bench.affords(&what, rounds as f64 * prompt_seconds)
            || !bench.fits(&what, limits.kv_bytes + model.weight_bytes()?)
        {
            return Ok(());
        }
        let mut stepper = Stepper::load(backend.as_ref(), &model, &limits)?;
        let prompt = bench.prompts()?.get(0, len);
        let (mut roofs, mut ours): (Vec<Roof>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut theirs: Vec<Result<Vec<f64>, String>> =
            peers.iter().map(|peer| peer.can("prefill").map(|()| Vec::new())).collect();
        for round in 0..rounds {
            bench.progress(&format!("{what}: {} of {rounds}", round + 1));
            for turn in turns(round, 2 + peers.len()) {
                match turn {
                    0 => roofs.push(bench.roof(backend.as_ref())),
                    1 => ours.push(stepper.prefill(&prompt)?),
                    _ => {
                        settle();
                        let peer = &mut peers[turn - 2];
                        let so_far = std::mem::replace(&mut theirs[turn - 2], Ok(Vec::new()));
                        theirs[turn - 2] = so_far.and_then(|mut seconds| {
                            seconds.push(peer.prefill(std::slice::from_ref(&prompt), len + 1)?);
                            Ok(seconds)
                        });
                        settle();
                    }
                }
            }
        }
        let measured = |seconds: &[f64]| {
            let mut series = roof_series(&roofs);
            series.push((names::STEP_SECONDS, Series::seconds(seconds.iter().copied())));
            Measurement { cost: Some(cost), series, ..Measurement::default() }
        };
        bench.keep(self, &case, measured(&ours))?;
        for (peer, result) in peers.iter().zip(&theirs) {
            match result {
                Ok(seconds) => bench.keep_peer(self, &case, peer, measured(seconds))?,
                Err(reason) => bench.skip(&format!("{} in {what}", peer.engine.name), reason),
            }
        }
        Ok(())
    }
}
