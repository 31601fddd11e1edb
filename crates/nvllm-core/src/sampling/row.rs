//! Sampling of one row: the executable definition of the steps in the module's essay.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{SamplingParams, uniform};
use crate::{TokenId, TokenLogprobs};

/// Tokens that a sequence has seen, for penalties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    prompt: HashMap<TokenId, u32>,
    output: HashMap<TokenId, u32>,
    output_len: u32,
    /// Whether only the length of the output is counted: prompts are long, and most sequences have
    /// no penalty.
    len_only: bool,
}

impl TokenCounts {
    /// Counts a prompt and an output.
    pub fn new(prompt: &[TokenId], output: &[TokenId]) -> Self {
        let mut counts = Self::default();
        prompt.iter().for_each(|&t| *counts.prompt.entry(t).or_default() += 1);
        output.iter().for_each(|&t| counts.push(t));
        counts
    }

    /// What a sequence sampled with `params` needs of its prompt and output.
    pub fn needed(params: &SamplingParams, prompt: &[TokenId], output: &[TokenId]) -> Self {
        if params.needs_counts() {
            return Self::new(prompt, output);
        }
        Self { output_len: output.len() as u32, len_only: true, ..Self::default() }
    }

    /// Adds a token to the output.
    pub fn push(&mut self, token: TokenId) {
        if !self.len_only {
            *self.output.entry(token).or_default() += 1;
        }
        self.output_len += 1;
    }
}

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// The score by which it won: a logit if greedy, else logit over temperature plus Gumbel noise.
    pub score: f64,
}

/// Whether a row of logits can be sampled and scored: it holds neither NaN nor plus infinity, nor
/// only minus infinity, which is a token that the model rules out.
pub fn is_usable(logits: &[f32]) -> bool {
    // Several at a time, and not up to the first that is bad: there hardly ever is one.
    let mut lanes = [true; 16];
    let (parts, rest) = logits.as_chunks::<16>();
    for part in parts {
        for (usable, &x) in lanes.iter_mut().zip(part) {
            *usable &= x < f32::INFINITY;
        }
    }
    let usable = lanes.iter().all(|&usable| usable) && rest.iter().all(|&x| x < f32::INFINITY);
    usable && logits.iter().any(|&x| x > f32::NEG_INFINITY)
}

/// Whether [`sample`] without a mask takes the token of the largest of the logits as they are, the
/// first of those that are equal.
pub fn takes_largest(params: &SamplingParams, counts: &TokenCounts) -> bool {
    let suppresses = counts.output_len < params.min_tokens && !params.stop_tokens.is_empty();
    params.temperature == 0.0 && params.logit_bias.is_empty() && !params.needs_counts() && !suppresses
}

/// Draws from `logits` `[vocab]` the token at index `position` of its sequence.
pub fn sample(
    logits: &[f32],
    params: &SamplingParams,
    counts: &TokenCounts,
    position: u32,
    mask: Option<&[u32]>,
) -> Sampled {
    let processed = processed(logits, params, counts, mask);
    if params.temperature == 0.0 {
        let token = first_largest(&processed);
        return Sampled { token: TokenId(token as u32), score: f64::from(processed[token]) };
    }
    let scaled: Vec<f64> = processed.iter().map(|&x| f64::from(x) / f64::from(params.temperature)).collect();
    let kept = kept(&scaled, params);
    let noisy = |t: u32| scaled[t as usize] - (-uniform(params.seed, params.choice, position, t).ln()).ln();
    let best = argmax(kept.iter().map(|&t| noisy(t)));
    Sampled { token: TokenId(kept[best]), score: noisy(kept[best]) }
}

/// Logits after mask, suppression, bias and penalties: steps 1 to 3. Copied only if one of them
/// changes something.
pub fn processed<'a>(
    logits: &'a [f32],
    params: &SamplingParams,
    counts: &TokenCounts,
    mask: Option<&[u32]>,
) -> Cow<'a, [f32]> {
    let mut x = Cow::Borrowed(logits);
    if let Some(mask) = mask {
        let allowed = |t: usize| mask.get(t / 32).is_some_and(|word| word >> (t % 32) & 1 == 1);
        let barred = x.to_mut().iter_mut().enumerate().filter(|(t, _)| !allowed(*t));
        barred.for_each(|(_, x)| *x = f32::NEG_INFINITY);
    }
    if counts.output_len < params.min_tokens {
        params.stop_tokens.iter().for_each(|t| x.to_mut()[t.index()] = f32::NEG_INFINITY);
    }
    for &(token, bias) in &params.logit_bias {
        x.to_mut()[token.index()] += bias;
    }
    if params.repetition_penalty != 1.0 {
        let new = counts.output.keys().filter(|t| !counts.prompt.contains_key(t));
        for token in counts.prompt.keys().chain(new) {
            let logit = &mut x.to_mut()[token.index()];
            *logit = if *logit > 0.0 {
                *logit / params.repetition_penalty
            } else {
                *logit * params.repetition_penalty
            };
        }
    }
    if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
        for (token, &count) in &counts.output {
            x.to_mut()[token.index()] -= count as f32 * params.frequency_penalty + params.presence_penalty;
        }
    }
    x
}

/// Tokens that survive steps 5 to 7, in no promised order.
fn kept(scaled: &[f64], params: &SamplingParams) -> Vec<u32> {
    let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let floor = if params.min_p > 0.0 { max + f64::from(params.min_p).ln() } else { f64::NEG_INFINITY };
    let mut kept: Vec<u32> = (0..scaled.len() as u32)
        .filter(|&t| scaled[t as usize] > f64::NEG_INFINITY && scaled[t as usize] >= floor)
        .collect();
    if kept.is_empty() {
        // Everything is masked or the logits are not numbers: the first token, so that the caller
        // still gets one.
        return vec![0];
    }
    let descending = |a: &u32, b: &u32| scaled[*b as usize].total_cmp(&scaled[*a as usize]).then(a.cmp(b));
    let top_k = params.top_k as usize;
    if top_k > 0 && top_k < kept.len() {
        kept.select_nth_unstable_by(top_k - 1, descending);
        kept.truncate(top_k);
    }
    if params.top_p < 1.0 {
        keep_mass(&mut kept, scaled, max, f64::from(params.top_p));
    }
    kept
}

/// Truncates `kept` to the shortest descending prefix with `share` of its mass.
///
/// Sorts only as long a prefix as it needs: the head of a language model's distribution is short.
fn keep_mass(kept: &mut Vec<u32>, scaled: &[f64], max: f64, share: f64) {
    let mass = |t: u32| (scaled[t as usize] - max).exp();
    let descending = |a: &u32, b: &u32| scaled[*b as usize].total_cmp(&scaled[*a as usize]).then(a.cmp(b));
    // Summed in order of id, so that the total does not depend on how `kept` was partitioned.
    kept.sort_unstable();
    let wanted = share * kept.iter().map(|&t| mass(t)).sum::<f64>();
    let mut prefix = 256;
    loop {
        if prefix < kept.len() {
            kept.select_nth_unstable_by(prefix - 1, descending);
        }
        let head = prefix.min(kept.len());
        kept[..head].sort_unstable_by(descending);
        let mut sum = 0.0;
        let enough = kept[..head].iter().position(|&t| {
            sum += mass(t);
            sum >= wanted
        });
        if let Some(last) = enough {
            kept.truncate(last + 1);
            return;
        }
        if head == kept.len() {
            return;
        }
        prefix *= 8;
    }
}

/// [`argmax`] of many f32, several at a time: a greedy step asks for nothing else.
fn first_largest(logits: &[f32]) -> usize {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (parts, rest) = logits.as_chunks::<16>();
    for part in parts {
        for (lane, &x) in lanes.iter_mut().zip(part) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let max = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    // Where nothing is above -inf, the first wins, as in `argmax`.
    logits.iter().position(|&x| x == max && x > f32::NEG_INFINITY).unwrap_or(0)
}

/// Index of the first largest; NaN never wins.
fn argmax(scores: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, score) in scores.enumerate() {
        if score > best.1 {
            best = (i, score);
        }
    }
    best.0
}

/// Accumulated in f64.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// The log-probability of `token` and of the `num` most likely tokens.
pub fn top_logprobs(logits: &[f32], token: TokenId, num: usize) -> TokenLogprobs {
    let lse = log_sum_exp(logits);
    let logprob = |t: u32| (f64::from(logits[t as usize]) - lse) as f32;
    let mut ids: Vec<u32> = if num == 0 { Vec::new() } else { (0..logits.len() as u32).collect() };
    let num = num.min(ids.len());
    let descending = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if num > 0 && num < ids.len() {
        ids.select_nth_unstable_by(num - 1, descending);
    }
    ids.truncate(num);
    ids.sort_unstable_by(descending);
    TokenLogprobs {
        logprob: logprob(token.0),
        top: ids.into_iter().map(|t| (TokenId(t), logprob(t))).collect(),
    }
}
