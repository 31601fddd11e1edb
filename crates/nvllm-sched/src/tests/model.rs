//! A model that is a hash: each row's result depends on every token and position before it, and on
//! the sampling seed and choice.

use std::collections::BTreeSet;

use nvllm_core::sampling::philox4x32;
use nvllm_core::{EntryId, SamplingParams, SeqId, TokenId, TokenLogprobs};

use crate::{FinishReason, GroupConfig, NewSequence, SchedConfig, SeqEvent};

pub(super) const VOCAB: u32 = 17;

/// Numbers that a failed walk can be repeated from.
pub(crate) struct Rng {
    seed: u64,
    drawn: u32,
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        philox4x32(self.seed, [self.drawn, 0, 0, 0])[0] as usize % n
    }

    /// A number of `range`.
    pub(crate) fn range(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// All that a row depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash(u64);

impl Hash {
    /// Before the first token.
    pub(super) const START: Self = Self(0x5EED);

    /// The result of a row that depends on the tokens of `self`, which `entry` makes and `sampling`
    /// samples.
    pub(super) fn sampled_by(self, sampling: &SamplingParams, entry: EntryId) -> Self {
        let asked = sampling.seed ^ u64::from(sampling.choice) << 32 ^ u64::from(entry.0) << 48;
        Self(mix(self.0 ^ mix(asked)))
    }

    pub(super) fn push(self, token: TokenId, position: u32) -> Self {
        Self(mix(self.0 ^ (u64::from(token.0) | u64::from(position) << 32)))
    }

    pub(super) fn next_token(self) -> TokenId {
        TokenId((self.0 % u64::from(VOCAB)) as u32)
    }

    pub(super) fn logprobs(self, of: TokenId, num_top: u16) -> TokenLogprobs {
        let of_token = |token: TokenId| (self.push(token, u32::MAX).0 % 1000) as f32;
        let top = (0..u32::from(num_top)).map(|i| (TokenId(i), of_token(TokenId(i)))).collect();
        TokenLogprobs { logprob: of_token(of), top }
    }

    pub(super) fn logit(self) -> f32 {
        (self.0 >> 40) as f32
    }
}

/// The finaliser of splitmix64 (Steele et al. 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// An event as something that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    Row { index: usize, token: Option<TokenId>, logprobs: Option<TokenLogprobs>, logit: Option<f32> },
    Finished(FinishReason),
}

impl Seen {
    pub(super) fn new(event: SeqEvent) -> (SeqId, Self) {
        let logit = |logits: Option<Box<dyn nvllm_core::Tensor>>| {
            logits.map(|t| t.to_host().expect("a host tensor").to_f32()[0])
        };
        let seq = event.seq();
        let seen = match event {
            SeqEvent::PromptRow { index, logprobs, logits, .. } => {
                Self::Row { index, token: None, logprobs, logit: logit(logits) }
            }
            SeqEvent::Token { index, token, logprobs, logits, .. } => {
                Self::Row { index, token: Some(token), logprobs, logit: logit(logits) }
            }
            SeqEvent::Finished { reason, .. } => Self::Finished(reason),
        };
        (seq, seen)
    }
}

/// Whether a sequence can run, and with how many tokens: written down apart from the scheduler.
pub(super) fn expected_max_tokens(new: &NewSequence, config: &SchedConfig) -> Option<usize> {
    let prompt_len = new.prompt.len();
    let next = new.positions.as_ref().map_or(prompt_len, |p| p.last().map_or(0, |last| *last as usize + 1));
    let in_positions = |p: &std::sync::Arc<[u32]>| p.iter().all(|p| (*p as usize) < config.max_positions);
    let good_positions = new.positions.as_ref().is_none_or(|p| p.len() == prompt_len && in_positions(p));
    if prompt_len == 0 || !good_positions {
        return None;
    }
    let fits = |max: &usize| {
        let total_fits = prompt_len + max <= config.context && next + max <= config.max_positions;
        total_fits
            && config.groups.iter().all(|group| fits_group(group, prompt_len + max.saturating_sub(1), config))
    };
    match new.max_tokens {
        Some(0) => Some(0).filter(fits),
        None => (1..=config.context).rev().find(fits),
        Some(wanted) => {
            let room = (0..=wanted)
                .rev()
                .find(|max| prompt_len + max <= config.context && next + max <= config.max_positions);
            room.filter(|max| *max > 0).filter(fits)
        }
    }
}

/// Whether a KV group has the blocks that `len` positions take with nothing else running: a window
/// reaches into the blocks around those that it fills.
fn fits_group(group: &GroupConfig, len: usize, config: &SchedConfig) -> bool {
    let blocks = |len: usize| len / config.block_len + usize::from(!len.is_multiple_of(config.block_len));
    let most = group.window.map_or(usize::MAX, |window| blocks(window - 1) + 1);
    blocks(len).min(most) < group.num_blocks
}

/// Every event of an undisturbed choice of a sequence.
pub(super) fn expected_events(new: &NewSequence, choice: u32, max_tokens: usize) -> Vec<Seen> {
    let mut events = Vec::new();
    let sampling = SamplingParams { choice, ..(*new.sampling).clone() };
    let mut tokens = Hash::START;
    let mut position = 0;
    let logit = |hash: Hash| new.logits.then(|| hash.logit());
    for (index, &token) in new.prompt.iter().enumerate() {
        position = new.positions.as_ref().map_or(index as u32, |p| p[index]);
        tokens = tokens.push(token, position);
        let hash = tokens.sampled_by(&sampling, new.entry);
        let target = new.prompt.get(index + 1);
        let logprobs = new.prompt_logprobs.zip(target).map(|(n, &target)| hash.logprobs(target, n));
        let sampled_from = target.is_none() && max_tokens > 0;
        let reported = choice > 0 && target.is_some();
        let logit = logit(hash).or((new.last_row && target.is_none()).then(|| hash.logit()));
        if !sampled_from && !reported && (logprobs.is_some() || logit.is_some()) {
            events.push(Seen::Row { index, token: None, logprobs, logit });
        }
    }
    for n in 0..max_tokens {
        let hash = tokens.sampled_by(&sampling, new.entry);
        let token = hash.next_token();
        let logprobs = new.logprobs.map(|n| hash.logprobs(token, n));
        events.push(Seen::Row {
            index: new.prompt.len() - 1 + n,
            token: Some(token),
            logprobs,
            logit: logit(hash).or((new.last_row && n == 0).then(|| hash.logit())),
        });
        if new.sampling.stop_tokens.contains(&token) {
            events.push(Seen::Finished(FinishReason::StopToken(token)));
            return events;
        }
        position += 1;
        tokens = tokens.push(token, position);
    }
    events.push(Seen::Finished(FinishReason::Length));
    events
}

/// The model must tell sequences apart, or the walks prove nothing.
#[test]
fn hashes_differ() {
    let hash = |tokens: &[u32]| tokens.iter().fold(Hash::START, |h, &t| h.push(TokenId(t), 0));
    let all: BTreeSet<u64> = (0..500).map(|i| hash(&[i % 20, i / 20]).0).collect();
    assert_eq!(all.len(), 500);
    assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
    assert_ne!(Hash::START.push(TokenId(1), 1), Hash::START.push(TokenId(1), 2));
    let sampled = |seed, choice, entry| {
        let sampling = SamplingParams { seed, choice, ..SamplingParams::default() };
        hash(&[1]).sampled_by(&sampling, EntryId(entry))
    };
    assert_ne!(sampled(1, 0, 0), sampled(2, 0, 0));
    assert_ne!(sampled(1, 0, 0), sampled(1, 1, 0));
    assert_ne!(sampled(1, 0, 0), sampled(1, 0, 1));
}
