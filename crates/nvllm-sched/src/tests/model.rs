//! A model that is a hash: each row's result depends on every token and position before it, and on
//! the sampling seed.

use std::collections::BTreeSet;

use nvllm_core::sampling::philox4x32;
use nvllm_core::{SeqId, TokenId, TokenLogprobs};

use crate::{FinishReason, NewSequence, SchedConfig, SeqEvent};

pub(super) const VOCAB: u32 = 17;

/// Numbers that a failed walk can be repeated from.
pub(super) struct Rng {
    seed: u64,
    drawn: u32,
}

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A number below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        philox4x32(self.seed, [self.drawn, 0, 0, 0])[0] as usize % n
    }

    /// A number of `range`.
    pub(super) fn range(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True once in `n`.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// All that a row depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed))
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
    let cache = config.num_blocks.iter().map(|n| (n - 1) * config.block_len).min().expect("a KV group");
    let fits = |max: &usize| {
        let total_fits = prompt_len + max <= config.context && next + max <= config.max_positions;
        total_fits && prompt_len + max.saturating_sub(1) <= cache
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

/// Every event of an undisturbed sequence.
pub(super) fn expected_events(new: &NewSequence, max_tokens: usize) -> Vec<Seen> {
    let mut events = Vec::new();
    let mut hash = Hash::new(new.sampling.seed);
    let mut position = 0;
    let logit = |hash: Hash| new.logits.then(|| hash.logit());
    for (index, &token) in new.prompt.iter().enumerate() {
        position = new.positions.as_ref().map_or(index as u32, |p| p[index]);
        hash = hash.push(token, position);
        let target = new.prompt.get(index + 1);
        let logprobs = new.prompt_logprobs.zip(target).map(|(n, &target)| hash.logprobs(target, n));
        let sampled_from = target.is_none() && max_tokens > 0;
        if !sampled_from && (logprobs.is_some() || new.logits) {
            events.push(Seen::Row { index, token: None, logprobs, logit: logit(hash) });
        }
    }
    for n in 0..max_tokens {
        let token = hash.next_token();
        let logprobs = new.logprobs.map(|n| hash.logprobs(token, n));
        events.push(Seen::Row {
            index: new.prompt.len() - 1 + n,
            token: Some(token),
            logprobs,
            logit: logit(hash),
        });
        if new.sampling.stop_tokens.contains(&token) {
            events.push(Seen::Finished(FinishReason::StopToken(token)));
            return events;
        }
        position += 1;
        hash = hash.push(token, position);
    }
    events.push(Seen::Finished(FinishReason::Length));
    events
}

/// The model must tell sequences apart, or the walks prove nothing.
#[test]
fn hashes_differ() {
    let hash = |tokens: &[u32]| tokens.iter().fold(Hash::new(1), |h, &t| h.push(TokenId(t), 0));
    let all: BTreeSet<u64> = (0..500).map(|i| hash(&[i % 20, i / 20]).0).collect();
    assert_eq!(all.len(), 500);
    assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
    assert_ne!(Hash::new(1).push(TokenId(1), 1), Hash::new(1).push(TokenId(1), 2));
    assert_ne!(Hash::new(1).push(TokenId(1), 1), Hash::new(2).push(TokenId(1), 1));
}
