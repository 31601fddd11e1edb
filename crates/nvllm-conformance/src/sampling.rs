//! The sampler: equal tokens for equal uniforms, log-probabilities, and frequencies.
//!
//! A backend's sampler is judged on the backend's own logits, which each row returns:
//! `sampling::sample` of core, given these, says which token is right. Another token is accepted
//! only if its score is within tolerance of the best and every filter keeps it within tolerance.

use std::sync::Arc;

use nvllm_core::sampling::{TokenCounts, processed, sample as draw_token, top_logprobs, uniform};
use nvllm_core::{
    Backend, Executable, InlineVec, OutputRow, SamplingParams, SeqStep, SlotId, SlotReset, Source, Step,
    StepId, StepOutput, TokenId, TokenLogprobs, TokenMasks,
};
use proptest::prelude::*;

use crate::check::{Settings, holds};
use crate::draw::Draw;
use crate::error::{Doing, Mismatch, Result};
use crate::layout::{Layout, Outputs};
use crate::models::logits;
use crate::tolerance::{LOGPROB, MASS, SCORE, U};
use crate::trial::{Numbers, Sketch, Trial, numbers};

/// One sequence of a sampling trial: its parameters, its prompt, and the output that it has
/// from before a preemption.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    params: SamplingParams,
    prompt_len: usize,
    output_len: usize,
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let filters = (
        prop_oneof![2 => Just(0.0_f32), 1 => Just(0.3), 3 => Just(1.0), 1 => Just(2.5)],
        prop_oneof![3 => Just(0_u32), 1 => Just(1), 1 => Just(5), 1 => Just(50)],
        prop_oneof![3 => Just(1.0_f32), 1 => Just(0.9), 1 => Just(0.3)],
        prop_oneof![3 => Just(0.0_f32), 1 => Just(0.05), 1 => Just(0.5)],
    );
    let penalties = (
        prop_oneof![2 => Just(1.0_f32), 1 => Just(1.3), 1 => Just(0.8)],
        prop_oneof![2 => Just(0.0_f32), 1 => Just(0.7), 1 => Just(-1.0)],
        prop_oneof![2 => Just(0.0_f32), 1 => Just(0.5)],
    );
    let bias = proptest::collection::vec((any::<u32>(), -5.0_f32..5.0), 0..3);
    let stops = proptest::collection::vec(any::<u32>(), 0..3);
    (filters, penalties, bias, (any::<u64>(), 0..3_u32), (0..4_u32, stops)).prop_map(
        |((temperature, top_k, top_p, min_p), (repetition, presence, frequency), bias, key, (min, stops))| {
            SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty: repetition,
                presence_penalty: presence,
                frequency_penalty: frequency,
                logit_bias: bias.into_iter().map(|(t, b)| (TokenId(t), b)).collect(),
                seed: key.0,
                choice: key.1,
                min_tokens: min,
                stop_tokens: stops.into_iter().map(TokenId).collect(),
            }
        },
    )
}

fn voices() -> impl Strategy<Value = Vec<Voice>> {
    let voice = (params(), 1..9_usize, 0..4_usize).prop_map(|(params, prompt_len, output_len)| Voice {
        params,
        prompt_len,
        output_len,
    });
    proptest::collection::vec(voice, 1..6)
}

/// Tokens to logits and nothing between: a table, a head, the sampler. Two rows of the head are
/// equal, so that there are exact ties.
fn speaker(numbers: Numbers, vocab: usize, seqs: usize, context: usize) -> Trial {
    let mut second = Vec::new();
    speaker_of(numbers, vocab, seqs, context, |draw, i| {
        let x = draw.unit() * 0.7;
        match i / HIDDEN {
            1 => second.push(x),
            2 => return second[i % HIDDEN],
            _ => {}
        }
        x
    })
}

const HIDDEN: usize = 8;

/// As [`speaker`], with the elements of the head as they are drawn.
fn speaker_of(
    numbers: Numbers,
    vocab: usize,
    seqs: usize,
    context: usize,
    head: impl FnMut(&mut Draw, usize) -> f32,
) -> Trial {
    let mut sketch = Sketch::new(numbers);
    let table = sketch.even_table("embed_tokens", vocab, HIDDEN, 1.0);
    let head = sketch.weight("lm_head", &[vocab, HIDDEN], &[vocab], head);
    let layout = Layout { outputs: Outputs::All, ..Layout::whole(&vec![context; seqs], numbers.seed) };
    sketch.finish(vocab, layout, |p| {
        let x = p.embed(table);
        let x = p.gather_rows(x);
        let x = p.linear_f32(x, head);
        p.output_logits(x);
    })
}

/// A sequence as the suite follows it.
pub(crate) struct Followed {
    slot: SlotId,
    params: Arc<SamplingParams>,
    counts: TokenCounts,
    /// Tokens not yet run.
    pub(crate) pending: Vec<TokenId>,
    start: usize,
}

impl Followed {
    pub(crate) fn seq_step(&self, outputs: InlineVec<OutputRow>) -> SeqStep {
        let positions = (0..self.pending.len()).map(|i| Source::Host((self.start + i) as u32)).collect();
        SeqStep {
            slot: self.slot,
            tokens: self.pending.iter().map(|&t| Source::Host(t)).collect(),
            positions,
            kv_start: Source::Host(self.start as u32),
            block_tables: InlineVec::new(),
            outputs,
        }
    }

    /// Moves past a step in which `token` was sampled.
    fn advance(&mut self, token: TokenId) {
        self.start += self.pending.len();
        self.counts.push(token);
        self.pending = vec![token];
    }
}

/// Sequences at their first step, and its resets.
pub(crate) fn follow(trial: &Trial, voices: &[Voice]) -> (Vec<Followed>, Vec<SlotReset>) {
    let vocab = trial.spec.vocab_size;
    let mut draw = Draw::new(trial.layout.content);
    let slots = trial.layout.slots();
    let start = |(voice, &slot): (&Voice, &SlotId)| {
        let mut tokens = |len: usize| (0..len).map(|_| TokenId(draw.below(vocab) as u32)).collect::<Vec<_>>();
        let (prompt, output) = (tokens(voice.prompt_len), tokens(voice.output_len));
        let within = |t: TokenId| TokenId(t.0 % vocab as u32);
        let mut params = voice.params.clone();
        params.logit_bias.iter_mut().for_each(|(t, _)| *t = within(*t));
        params.stop_tokens.iter_mut().for_each(|t| *t = within(*t));
        let followed = Followed {
            slot,
            params: Arc::new(params),
            counts: TokenCounts::new(&prompt, &output),
            pending: prompt.iter().chain(&output).copied().collect(),
            start: 0,
        };
        let reset = SlotReset {
            slot,
            prompt: prompt.into(),
            output: output.into(),
            sampling: Arc::clone(&followed.params),
        };
        (followed, reset)
    };
    voices.iter().zip(&slots).map(start).unzip()
}

pub(crate) fn load(backend: &dyn Backend, trial: &Trial) -> Result<Box<dyn Executable>> {
    backend.plan_and_load(&trial.spec, &trial.source, &trial.limits).doing("load")
}

const MOST_TOKENS: usize = 16;

pub(crate) fn trials(backend: &dyn Backend) -> impl Strategy<Value = (Trial, Vec<Voice>)> + use<> {
    (numbers(backend), 3..300_usize, voices()).prop_map(|(numbers, vocab, voices)| {
        let trial = speaker(numbers, vocab, voices.len(), MOST_TOKENS);
        (trial, voices)
    })
}

/// Case of the sampler: every parameter, over several steps whose tokens come from the step
/// before; outputs that are not sampled in between.
pub fn sample(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("sample", settings, 2.0, trials(backend), |(trial, voices)| sample_steps(backend, trial, voices))
}

/// Case of the sampler with a vocabulary that many threads share: thousands of tokens and of ties,
/// top-k above what one block sees, and distributions that are flat.
pub fn sample_large(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let vocab = prop_oneof![4_000..9_000_usize, 30_000..40_000_usize];
    // Rows of the head that differ, after which they repeat.
    let distinct = prop_oneof![2 => Just(usize::MAX), 1 => Just(3_000), 1 => Just(5)];
    let spread = prop_oneof![Just(0.01_f32), Just(0.7), Just(5.0)];
    let top_k = prop_oneof![Just(0_u32), Just(20), Just(256), Just(257), Just(1_000), Just(20_000)];
    let kinds = proptest::collection::vec(top_k, 6);
    let strategy = (numbers(backend), vocab, distinct, spread, voices(), kinds).prop_map(
        |(numbers, vocab, distinct, spread, mut voices, kinds)| {
            voices.iter_mut().zip(kinds).for_each(|(voice, top_k)| voice.params.top_k = top_k);
            let mut rows = Vec::new();
            let trial = speaker_of(numbers, vocab, voices.len(), MOST_TOKENS, |draw, i| {
                if i / HIDDEN < distinct {
                    rows.push(draw.unit() * spread);
                }
                rows[i % rows.len()]
            });
            (trial, voices)
        },
    );
    holds("sample_large", settings, 0.25, strategy, |(trial, voices)| sample_steps(backend, trial, voices))
}

/// Some steps whose tokens come from the step before.
fn sample_steps(backend: &dyn Backend, trial: &Trial, voices: &[Voice]) -> Result<()> {
    let mut exe = load(backend, trial)?;
    let (mut followed, mut resets) = follow(trial, voices);
    for id in 0..4 {
        let row = |i| OutputRow { values: true, ..OutputRow::sample(i) };
        let seqs = followed
            .iter()
            .map(|f| {
                let last = f.pending.len() as u32 - 1;
                let first = (last > 0).then(|| OutputRow::values(0));
                f.seq_step(first.into_iter().chain([row(last)]).collect())
            })
            .collect();
        let step = Step { id: StepId(id), resets: std::mem::take(&mut resets), seqs, ..Step::default() };
        let ticket = exe.submit(&step).doing("submit")?;
        let output = exe.collect(ticket).doing("collect")?;
        check_tokens(&step, &output, &mut followed, &TokenMasks::default())?;
    }
    Ok(())
}

/// Holds sampled tokens to core's sampler on the rows' own logits, and follows them.
pub(crate) fn check_tokens(
    step: &Step,
    output: &StepOutput,
    followed: &mut [Followed],
    masks: &TokenMasks,
) -> Result<()> {
    let logits = logits(output)?;
    let rows: Vec<_> =
        step.seqs.iter().enumerate().flat_map(|(i, s)| s.outputs.iter().map(move |o| (i, o))).collect();
    if logits.len() != rows.len() {
        return Err(Mismatch::contract("a step's output has not one entry an output row"));
    }
    for (at, (seq, want)) in rows.into_iter().enumerate() {
        let token = match (want.sample, output.rows[at].token) {
            (false, None) => continue,
            (true, Some(token)) => token,
            (asked, got) => {
                let problem = format!("row {at}: sampling asked: {asked}; token: {got:?}");
                return Err(Mismatch::contract(problem));
            }
        };
        let f = &mut followed[seq];
        let position = (f.start + f.pending.len()) as u32;
        let mask = masks.rows.iter().find(|(row, _)| *row == at).map(|(_, words)| words.as_slice());
        acceptable(&logits[at], &f.params, &f.counts, position, mask, token).map_err(|problem| {
            let place = format!("step {}, row {at}, position {position}", step.id);
            Mismatch::contract(format!("sample: {place}: token {token}: {problem}; {:?}", f.params))
        })?;
        f.advance(token);
    }
    Ok(())
}

/// Whether `token` may have been drawn.
fn acceptable(
    logits: &[f32],
    params: &SamplingParams,
    counts: &TokenCounts,
    position: u32,
    mask: Option<&[u32]>,
    token: TokenId,
) -> Result<(), String> {
    let right = draw_token(logits, params, counts, position, mask);
    if right.token == token {
        return Ok(());
    }
    let scores = processed(logits, params, counts, mask);
    let Some(&score) = scores.get(token.index()) else { return Err("is outside the vocabulary".into()) };
    let instead = format!("{} with score {:.6} is right", right.token, right.score);
    if score == f32::NEG_INFINITY {
        return Err(format!("is masked or suppressed; {instead}"));
    }
    if params.temperature == 0.0 {
        let plain = !params.needs_counts() && params.logit_bias.is_empty();
        // Without arithmetic on the logits there is nothing to round: ties go to the lower id,
        // exactly.
        let slack = if plain { 0.0 } else { 8.0 * U * (1.0 + right.score.abs()) };
        let near = f64::from(score) >= right.score - slack && !plain;
        return if near { Ok(()) } else { Err(format!("has the logit {score:e}; {instead}")) };
    }
    let scaled: Vec<f64> = scores.iter().map(|&x| f64::from(x) / f64::from(params.temperature)).collect();
    if !keeps(&scaled, params, token.index(), MASS) {
        return Err(format!("is filtered out; {instead}"));
    }
    let noise = -(-uniform(params.seed, params.choice, position, token.0).ln()).ln();
    let own = scaled[token.index()] + noise;
    let border = !keeps(&scaled, params, right.token.index(), -MASS);
    if border || own >= right.score - SCORE * (1.0 + right.score.abs()) {
        return Ok(());
    }
    Err(format!("scores {own:.6}; {instead}"))
}

/// Whether min-p, top-k and top-p keep `token` when every threshold is eased by `slack` (negative:
/// sharpened).
fn keeps(scaled: &[f64], params: &SamplingParams, token: usize, slack: f64) -> bool {
    let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let floor = |slack: f64| {
        if params.min_p > 0.0 { max + f64::from(params.min_p).ln() - slack } else { f64::NEG_INFINITY }
    };
    let own = scaled[token];
    let mut left: Vec<f64> =
        scaled.iter().copied().filter(|&s| s >= floor(-slack) && s.is_finite()).collect();
    left.sort_by(|a, b| b.total_cmp(a));
    let ahead = |left: &[f64]| left.iter().filter(|&&s| s > own + slack).count();
    let top_k = params.top_k as usize;
    if own < floor(slack) || top_k > 0 && ahead(&left) >= top_k {
        return false;
    }
    if top_k > 0 {
        left.truncate(top_k);
    }
    let mass = |s: &f64| (s - max).exp();
    let (total, ahead) = (left.iter().map(mass).sum::<f64>(), ahead(&left));
    let before = left[..ahead].iter().map(mass).sum::<f64>();
    params.top_p >= 1.0 || before < (f64::from(params.top_p) + slack) * total
}

/// Log-probabilities of sampled tokens and of targets, with the most likely tokens beside them.
pub fn logprobs(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let strategy = (trials(backend), 0..8_u16, any::<bool>());
    holds("logprobs", settings, 1.0, strategy, |((trial, voices), num, target)| {
        let mut exe = load(backend, trial)?;
        let (followed, resets) = follow(trial, voices);
        let vocab = trial.spec.vocab_size;
        let mut draw = Draw::new(trial.layout.content);
        let mut row = |index, last| OutputRow {
            index,
            sample: index == last,
            target: (*target).then(|| TokenId(draw.below(vocab) as u32)),
            top_logprobs: num.checked_sub(1),
            values: true,
            ..OutputRow::new(index)
        };
        let mut seqs = Vec::new();
        for f in &followed {
            let last = f.pending.len() as u32 - 1;
            seqs.push(f.seq_step((0..=last).map(|i| row(i, last)).collect()));
        }
        let step = Step { resets, seqs, ..Step::default() };
        let ticket = exe.submit(&step).doing("submit")?;
        let output = exe.collect(ticket).doing("collect")?;
        let logits = logits(&output)?;
        for (at, want) in step.seqs.iter().flat_map(|s| &s.outputs).enumerate() {
            let scored = want.target.or(output.rows[at].token.filter(|_| want.top_logprobs.is_some()));
            let expected =
                scored.map(|t| top_logprobs(&logits[at], t, usize::from(want.top_logprobs.unwrap_or(0))));
            same_logprobs(&logits[at], output.rows[at].logprobs.as_ref(), expected.as_ref())
                .map_err(|problem| Mismatch::contract(format!("logprobs: row {at}: {problem}")))?;
        }
        Ok(())
    })
}

fn same_logprobs(
    logits: &[f32],
    got: Option<&TokenLogprobs>,
    want: Option<&TokenLogprobs>,
) -> std::result::Result<(), String> {
    let (got, want) = match (got, want) {
        (None, None) => return Ok(()),
        (Some(got), Some(want)) => (got, want),
        (got, want) => return Err(format!("has {got:?}; {want:?} is right")),
    };
    let largest = logits.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
    let near = |a: f32, b: f32| {
        f64::from((a - b).abs()) <= LOGPROB * (4.0 + f64::from(largest) + f64::from(b.abs()))
    };
    if !near(got.logprob, want.logprob) {
        return Err(format!("log-probability {}; {} is right", got.logprob, want.logprob));
    }
    if got.top.len() != want.top.len() {
        return Err(format!("{} most likely tokens; {} are right", got.top.len(), want.top.len()));
    }
    let mut seen = Vec::new();
    for (&(token, logprob), &(right, best)) in got.top.iter().zip(&want.top) {
        let own = top_logprobs(logits, token, 0).logprob;
        if token != right && logits[token.index()] == logits[right.index()] {
            return Err(format!(
                "token {token} stands where {right} is right: of equals the lower id is first"
            ));
        }
        if seen.contains(&token) || !near(own, best) || !near(logprob, best) {
            return Err(format!("token {token} with {logprob} stands where {right} with {best} is right"));
        }
        seen.push(token);
    }
    Ok(())
}

/// How often each token comes, against its probability, for temperature, top-k, top-p and min-p.
///
/// Pearson's chi-square of 2,048 draws with different seeds, choices and positions. The bound is
/// the upper 1e-6 quantile: over all seeds one right sampler in a million would fail, and the seeds
/// are fixed.
pub fn frequencies(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    const SLOTS: usize = 64;
    const STEPS: usize = 32;
    let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let ways = [
        base.clone(),
        SamplingParams { temperature: 0.6, ..base.clone() },
        SamplingParams { temperature: 1.7, top_k: 4, ..base.clone() },
        SamplingParams { top_p: 0.8, ..base.clone() },
        SamplingParams { min_p: 0.2, ..base.clone() },
        SamplingParams { temperature: 1.3, top_k: 6, top_p: 0.7, min_p: 0.05, ..base },
    ];
    let numbers = Numbers {
        weights: nvllm_core::DType::F32,
        vectors: nvllm_core::DType::F32,
        activations: nvllm_core::Activations::F32,
        kv: nvllm_core::KvFormat::F32,
        seed: settings.seed,
    };
    let trial = speaker(numbers, 12, SLOTS, STEPS);
    for (way, params) in ways.into_iter().enumerate() {
        let mut exe = load(backend, &trial)?;
        let mut draw = Draw::new(settings.seed ^ way as u64);
        let mut resets: Vec<_> = (0..SLOTS as u32)
            .map(|slot| {
                let seed = u64::from(draw.word()) << 32 | u64::from(draw.word());
                let sampling = Arc::new(SamplingParams { seed, choice: slot % 3, ..params.clone() });
                SlotReset { slot: SlotId(slot), prompt: [TokenId(0)].into(), output: [].into(), sampling }
            })
            .collect();
        let (mut seen, mut row) = (vec![0_usize; trial.spec.vocab_size], Vec::new());
        for at in 0..STEPS as u32 {
            // Always the same token, so that every draw is from the same logits.
            let seqs = (0..SLOTS as u32)
                .map(|slot| SeqStep {
                    slot: SlotId(slot),
                    tokens: [Source::Host(TokenId(0))].into(),
                    positions: [Source::Host(at)].into(),
                    kv_start: Source::Host(at),
                    block_tables: InlineVec::new(),
                    outputs: [OutputRow { values: true, ..OutputRow::sample(0) }].into(),
                })
                .collect();
            let step = Step {
                id: StepId(u64::from(at)),
                resets: std::mem::take(&mut resets),
                seqs,
                ..Step::default()
            };
            let ticket = exe.submit(&step).doing("submit")?;
            let output = exe.collect(ticket).doing("collect")?;
            output.rows.iter().filter_map(|row| row.token).for_each(|t| seen[t.index() % 12] += 1);
            row = logits(&output)?.swap_remove(0);
        }
        fits(&row, &params, &seen).map_err(|problem| {
            Mismatch::contract(format!(
                "frequencies under {params:?}: {problem}; drawn {seen:?} from {row:?}"
            ))
        })?;
    }
    Ok(())
}

/// Whether the counts come from the distribution, written here a second time from its plain
/// definition.
fn fits(logits: &[f32], params: &SamplingParams, seen: &[usize]) -> std::result::Result<(), String> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let mass = |t: usize| (f64::from(logits[t] - logits[order[0]]) / f64::from(params.temperature)).exp();
    let mut kept: Vec<usize> =
        order.iter().copied().filter(|&t| mass(t) >= f64::from(params.min_p)).collect();
    if params.top_k > 0 {
        kept.truncate(params.top_k as usize);
    }
    let total: f64 = kept.iter().map(|&t| mass(t)).sum();
    let mut sum = 0.0;
    let nucleus = kept.iter().position(|&t| {
        sum += mass(t) / total;
        sum >= f64::from(params.top_p)
    });
    kept.truncate(nucleus.map_or(kept.len(), |last| last + 1));
    if let Some(t) = (0..seen.len()).find(|t| seen[*t] > 0 && !kept.contains(t)) {
        return Err(format!("token {t} was drawn and has no probability"));
    }
    let (total, draws) = (kept.iter().map(|&t| mass(t)).sum::<f64>(), seen.iter().sum::<usize>() as f64);
    // Cells with fewer than five expected draws are one cell.
    let (mut chi, mut cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
    for &t in &kept {
        let (n, expected) = (seen[t] as f64, mass(t) / total * draws);
        if expected < 5.0 {
            rest = (rest.0 + n, rest.1 + expected);
        } else {
            chi += (n - expected).powi(2) / expected;
            cells += 1.0;
        }
    }
    if rest.1 >= 5.0 {
        chi += (rest.0 - rest.1).powi(2) / rest.1;
        cells += 1.0;
    }
    let bound = chi_square_bound((cells - 1.0_f64).max(1.0));
    if chi <= bound {
        Ok(())
    } else {
        Err(format!("chi-square {chi:.1} of {cells} cells; at most {bound:.1}"))
    }
}

/// Upper 1e-6 quantile of chi-square with `k` degrees of freedom
/// (Wilson and Hilferty 1931; the normal quantile is 4.753).
fn chi_square_bound(k: f64) -> f64 {
    k * (1.0 - 2.0 / (9.0 * k) + 4.753 * (2.0 / (9.0 * k)).sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chi_square_quantiles() {
        // Exact: 35.89 and 46.86. The approximation errs on the wide side, so the false-alarm rate
        // is below the stated one.
        assert!((35.89..37.6).contains(&chi_square_bound(5.0)), "{}", chi_square_bound(5.0));
        assert!((46.86..48.0).contains(&chi_square_bound(10.0)), "{}", chi_square_bound(10.0));
    }

    #[test]
    fn a_wrong_temperature_does_not_fit() {
        let logits = [0.0_f32, 0.5, 1.0, 1.5];
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let seen: Vec<_> = logits.iter().map(|&x| (f64::from(x).exp() / total * 2048.0) as usize).collect();
        let params = |temperature| SamplingParams { temperature, ..SamplingParams::default() };
        assert!(fits(&logits, &params(1.0), &seen).is_ok());
        assert!(fits(&logits, &params(0.7), &seen).is_err());
    }
}
