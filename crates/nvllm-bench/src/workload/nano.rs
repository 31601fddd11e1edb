//! S1: the request set of nano-vllm's benchmark, through the engine with continuous batching.
//!
//! Source: `bench.py` of <https://github.com/GeeeekExplorer/nano-vllm>: 256 requests whose prompts
//! are drawn by Python's `random` with seed 0. The same draws are made here, so that tokens and
//! lengths are those of the published runs (133,966 output tokens); sampling is greedy instead of
//! at temperature 0.6, so that engines do the same work.

use std::sync::Arc;
use std::time::Instant;

use nvllm_core::program::Counts;
use nvllm_core::{Backend, TokenId};
use nvllm_engine::{Engine, EngineStats, Event, LoadOptions, Model, Request};
use rand_mt::Mt;

use super::contract::Workload;
use super::figures::{Figures, median_of};
use crate::context::Context;
use crate::latency::RequestTimes;
use crate::measure::{Measurement, Roof, SetTimes, roof_series, settle, stepper, turns};
use crate::record::{Case, Record, Series, names};
use crate::{BenchError, Result};

/// The whole set at once.
pub(super) struct Nano;

const NUM_REQUESTS: usize = 256;
const LENGTHS: (u32, u32) = (100, 1024);
/// Token ids are drawn from 0 to this.
const LAST_ID: u32 = 10_000;
/// Scales that are tried, largest first, where none is asked for.
const SCALES: [f64; 6] = [1.0, 0.5, 0.25, 0.1, 0.05, 0.02];
const QUICK_SCALE: f64 = 0.05;
/// Whole runs of every engine.
const ROUNDS: usize = 2;

/// Prompts and output lengths.
struct Set {
    prompts: Vec<Vec<TokenId>>,
    output_lens: Vec<usize>,
}

impl Set {
    /// The set at `scale`: the first requests, each with the beginning of its prompt. Ids wrap at
    /// `vocab_size`.
    fn new(scale: f64, vocab_size: usize) -> Self {
        let mut random = Python::seeded(0);
        let prompts: Vec<Vec<u32>> = (0..NUM_REQUESTS)
            .map(|_| {
                let len = random.between(LENGTHS.0, LENGTHS.1);
                (0..len).map(|_| random.between(0, LAST_ID)).collect()
            })
            .collect();
        let output_lens: Vec<u32> = (0..NUM_REQUESTS).map(|_| random.between(LENGTHS.0, LENGTHS.1)).collect();
        let part = |len: usize| ((len as f64 * scale).round() as usize).max(1);
        let num = part(NUM_REQUESTS);
        let cut = |ids: &Vec<u32>| {
            ids[..part(ids.len())].iter().map(|&id| TokenId(id % vocab_size as u32)).collect()
        };
        Self {
            prompts: prompts[..num].iter().map(cut).collect(),
            output_lens: output_lens[..num].iter().map(|&len| part(len as usize)).collect(),
        }
    }

    fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Tokens of the longest request.
    fn longest(&self) -> usize {
        self.prompts.iter().zip(&self.output_lens).map(|(prompt, len)| prompt.len() + len).max().unwrap_or(0)
    }

    /// Seconds that it takes at least, about: all prompts, then steps of all sequences at their
    /// mean length.
    fn seconds(&self, bench: &Context, model: &Model, backend: &dyn Backend, roof: Roof) -> Result<f64> {
        let limits = bench.limits(model, self.len(), self.longest(), bench.step_tokens.max(self.len()))?;
        let weights = stepper::weights(model, backend, &limits)?;
        let tokens: usize = self.prompts.iter().map(Vec::len).sum();
        let (outputs, num) = (self.output_lens.iter().sum::<usize>(), self.len());
        let prompts = stepper::prefill_counts(&[tokens / num], bench.step_tokens);
        let step = [Counts::decode(num, (tokens + outputs / 2) / num)];
        let prompt_seconds = num as f64 * roof.seconds(stepper::cost(model, &limits, &weights, &prompts));
        let step_seconds = roof.seconds(stepper::cost(model, &limits, &weights, &step));
        Ok(prompt_seconds + step_seconds * outputs as f64 / num as f64)
    }
}

/// Python's `random`, as far as the set needs it.
struct Python(Mt);

impl Python {
    /// `random.seed(seed)` of a number below 2^32.
    fn seeded(seed: u32) -> Self {
        Self(Mt::new_with_key([seed]))
    }

    /// `random.randint(low, high)`: the top bits of one word, drawn again while they are too large.
    fn between(&mut self, low: u32, high: u32) -> u32 {
        let num = high - low + 1;
        let bits = u32::BITS - num.leading_zeros();
        loop {
            let drawn = self.0.next_u32() >> (u32::BITS - bits);
            if drawn < num {
                return low + drawn;
            }
        }
    }
}

impl Workload for Nano {
    fn name(&self) -> &'static str {
        "nano"
    }

    fn code(&self) -> &'static str {
        "S1"
    }

    fn definition(&self) -> &'static str {
        "256 requests, prompts and outputs of 100 to 1,024 tokens (uniform, Python's `random` with seed 0, nano-vllm's set), all \
         submitted at once, greedy, end tokens ignored; seconds until the last token. At a smaller scale the first requests with \
         lengths cut in proportion"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let mut peers = bench.take_peers()?;
        let result = self.with(bench, &mut peers);
        bench.put_peers(peers);
        result
    }

    fn figures(&self, record: &Record) -> Figures {
        let tokens: f64 = record.series(names::OUTPUT_TOKENS).iter().sum();
        Figures {
            headline: format!("{} for {tokens} output tokens", median_of(record, names::RUN_SECONDS)),
            rate: record.median(names::RUN_SECONDS).map(|seconds| tokens / seconds),
            limit: "-".into(),
        }
    }
}

impl Nano {
    fn with(&self, bench: &mut Context, peers: &mut [crate::peer::Peer]) -> Result<()> {
        let model = Arc::new(bench.open()?);
        let backend = bench.backend()?;
        let mut roofs = vec![bench.roof(&backend)];
        let Some((set, scale)) = choose(bench, &model, backend.as_ref(), roofs[0], 1 + peers.len())? else {
            return Ok(());
        };
        let case = Case {
            num_requests: Some(set.len()),
            scale_percent: Some((100.0 * scale).round() as usize),
            ..Case::default()
        };
        let what = format!("nano, {case}");
        let engine = start(bench, &model, &set)?;
        let before = engine.stats();
        let rounds = if bench.settings.quick { 1 } else { ROUNDS };
        let mut ours: Vec<SetTimes> = Vec::new();
        let mut theirs: Vec<Result<Vec<SetTimes>, String>> =
            peers.iter().map(|peer| peer.can("set").map(|()| Vec::new())).collect();
        for round in 0..rounds {
            for turn in turns(round, 1 + peers.len()) {
                let who = if turn == 0 { "nvllm" } else { &peers[turn - 1].engine.name };
                bench.progress(&format!("{what}: {} of {rounds}, {who}", round + 1));
                if turn == 0 {
                    ours.push(run_ours(&engine, &set, round)?);
                    continue;
                }
                settle();
                let so_far = std::mem::replace(&mut theirs[turn - 1], Ok(Vec::new()));
                theirs[turn - 1] = so_far.and_then(|mut all| {
                    all.push(peers[turn - 1].set(&set.prompts, &set.output_lens)?);
                    Ok(all)
                });
                settle();
            }
        }
        roofs.push(bench.roof(&backend));
        let mut measured = measurement(&set, &ours, &roofs);
        measured.values.extend(wait_share(&before, &engine.stats()));
        bench.record(self.name(), &case, measured)?;
        for (peer, times) in peers.iter().zip(theirs) {
            match times {
                Ok(times) => {
                    bench.record_peer(self.name(), &case, peer, measurement(&set, &times, &roofs))?;
                }
                Err(reason) => bench.skip(&format!("{} in {what}", peer.engine.name), &reason),
            }
        }
        Ok(())
    }
}

/// The set as asked for, or the largest that fits the time; `None` if none does.
fn choose(
    bench: &mut Context,
    model: &Model,
    backend: &dyn Backend,
    roof: Roof,
    engines: usize,
) -> Result<Option<(Set, f64)>> {
    let asked = bench.settings.scale.or(bench.settings.quick.then_some(QUICK_SCALE));
    let rounds = if bench.settings.quick { 1 } else { ROUNDS };
    let allowed = bench.settings.case_seconds * engines as f64;
    for scale in asked.map_or(SCALES.to_vec(), |scale| vec![scale]) {
        let set = Set::new(scale, model.spec.vocab_size);
        let what = format!("nano at a scale of {scale}");
        if set.longest() > model.spec.max_positions {
            bench.skip(
                &what,
                &format!(
                    "a request comes to {} tokens; the model has {} positions",
                    set.longest(),
                    model.spec.max_positions
                ),
            );
            continue;
        }
        // Twice the least: prompts and steps get into each other's way.
        let seconds = 2.0 * set.seconds(bench, model, backend, roof)? * (rounds * engines) as f64;
        if asked.is_some() || seconds <= allowed {
            return Ok(Some((set, scale)));
        }
        bench.skip(&what, &format!("it would take about {seconds:.0} s; {allowed:.0} s are allowed for it"));
    }
    Ok(None)
}

fn start(bench: &Context, model: &Arc<Model>, set: &Set) -> Result<Engine> {
    let activations = bench.settings.activations;
    let seqs = set.len().min(NUM_REQUESTS);
    let limits = bench.limits(model, seqs, set.longest(), bench.step_tokens.max(seqs))?;
    let free = bench.free_bytes().saturating_sub(model.weight_bytes()?);
    let options = LoadOptions {
        max_num_seqs: Some(seqs),
        max_num_batched_tokens: Some(bench.step_tokens.max(seqs)),
        max_model_len: Some(set.longest()),
        kv_cache_bytes: Some(limits.kv_bytes.min(free / 2)),
        activations: Some(activations),
        kv_cache_dtype: Some(bench.settings.kv_format),
        numerics: bench.settings.numerics,
        exact_head: bench.settings.exact_head,
        ..LoadOptions::default()
    };
    let factory = bench.factory();
    let engine = Engine::builder(Arc::clone(model), move || factory()).options(options).start()?;
    // Pages and scratch are there before the clock runs.
    run_ours(&engine, &Set { prompts: vec![set.prompts[0].clone()], output_lens: vec![2] }, ROUNDS)?;
    Ok(engine)
}

/// Submits everything at once and waits for the last token.
fn run_ours(engine: &Engine, set: &Set, round: usize) -> Result<SetTimes> {
    let begin = Instant::now();
    let mut streams = Vec::new();
    for (prompt, &len) in set.prompts.iter().zip(&set.output_lens) {
        // Every round computes all prompts.
        let cache_salt = Some(format!("round {round}"));
        let request =
            Request { prompt: prompt.clone(), max_tokens: Some(len), cache_salt, ..Request::default() };
        streams.push((Instant::now(), engine.stream(request)?));
    }
    let mut times = Vec::new();
    let mut last = begin;
    for (at, (submitted, stream)) in streams.into_iter().enumerate() {
        let (mut tokens, mut error) = (Vec::new(), None);
        for event in stream {
            match event {
                Event::Token { at, .. } => tokens.push(at),
                Event::Finished(finished) => error = finished.error,
                Event::PromptRow { .. } | Event::Embedding { .. } => {}
            }
        }
        if let Some(problem) = error
            .or((tokens.len() != set.output_lens[at]).then(|| format!("it made {} tokens", tokens.len())))
        {
            return Err(BenchError::Request { number: at, problem });
        }
        last = last.max(tokens.last().copied().unwrap_or(begin));
        times.push(RequestTimes::new(set.prompts[at].len(), submitted, &tokens));
    }
    Ok(SetTimes {
        seconds: last.saturating_duration_since(begin).as_secs_f64(),
        ttft: times.iter().filter_map(RequestTimes::ttft).collect(),
        e2el: times.iter().filter_map(RequestTimes::e2el).collect(),
        itl: times.iter().flat_map(RequestTimes::itl).collect(),
    })
}

/// The share of the time of steps between two looks in which the device waited for the host.
fn wait_share(before: &EngineStats, after: &EngineStats) -> Option<(&'static str, f64)> {
    let busy = after.device_busy.saturating_sub(before.device_busy);
    let waited = after.device_waited.saturating_sub(before.device_waited);
    // A record holds positive numbers only: less than a nanosecond is as good as none.
    let share = waited.as_secs_f64().max(1e-9) / (busy + waited).as_secs_f64();
    (!busy.is_zero()).then_some((names::DEVICE_WAIT_SHARE, share))
}

fn measurement(set: &Set, runs: &[SetTimes], roofs: &[Roof]) -> Measurement {
    let mut series = roof_series(roofs);
    let pooled = |of: fn(&SetTimes) -> &Vec<f64>| runs.iter().flat_map(of).copied().collect::<Vec<f64>>();
    series.push((names::RUN_SECONDS, Series::seconds(runs.iter().map(|run| run.seconds))));
    series.push((names::PROMPT_TOKENS, Series::whole(set.prompts.iter().map(|prompt| prompt.len() as f64))));
    series.push((names::OUTPUT_TOKENS, Series::whole(set.output_lens.iter().map(|&len| len as f64))));
    // What an engine does not tell is absent and not empty.
    let told = [
        (names::TTFT_SECONDS, Series::seconds(pooled(|run| &run.ttft))),
        (names::E2EL_SECONDS, Series::seconds(pooled(|run| &run.e2el))),
        (
            names::ITL_SECONDS,
            Series::seconds_sorted(pooled(|run| &run.itl).into_iter().map(|gap| gap.max(1e-6))),
        ),
    ];
    series.extend(told.into_iter().filter(|(_, series)| !series.is_empty()));
    Measurement { series, ..Measurement::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_python() {
        // random.seed(0); [random.randint(100, 1024) for _ in range(4)]
        let mut random = Python::seeded(0);
        assert_eq!([(); 4].map(|()| random.between(100, 1024)), PYTHON_DRAWS);
    }

    const PYTHON_DRAWS: [u32; 4] = [964, 494, 876, 1011];

    #[test]
    fn the_set_is_the_published_one() {
        let set = Set::new(1.0, 20_000);
        assert_eq!(set.len(), NUM_REQUESTS);
        assert_eq!(set.output_lens.iter().sum::<usize>(), 133_966, "as nano-vllm's README reports");
        assert!(set.prompts.iter().all(|prompt| (100..=1024).contains(&prompt.len())));
    }

    #[test]
    fn a_smaller_set_is_the_beginning_of_the_larger() {
        let (whole, small) = (Set::new(1.0, 8192), Set::new(0.05, 8192));
        assert_eq!(small.len(), 13);
        for (small, whole) in small.prompts.iter().zip(&whole.prompts) {
            assert!(whole.starts_with(small) && small.len() == (whole.len() as f64 * 0.05).round() as usize);
        }
        assert!(small.prompts.iter().flatten().all(|id| id.index() < 8192));
    }
}
