//! A sequence: what was asked for, and how far it has come.

use std::sync::Arc;

use nvllm_core::{BlockId, OutputRow, SamplingParams, SlotId, Source, StepId, TokenId};

use crate::{FinishReason, Result, SchedConfig, SchedError};

/// What a sequence is to do.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// The prompt, at least one token.
    pub prompt: Arc<[TokenId]>,
    /// How it is sampled. Its `stop_tokens` end the sequence: the one list for that, so that what
    /// the sampler suppresses under `min_tokens` and what ends a sequence cannot differ. To ignore
    /// an end-of-text token, leave it out.
    pub sampling: Arc<SamplingParams>,
    /// Tokens to sample at most. More than the context has room for is clamped to that; `None` is
    /// as many as context and KV cache have room for, and reserves them. 0 only computes the
    /// prompt.
    pub max_tokens: Option<usize>,
    /// Log-probabilities of each sampled token and of this many of the most likely ones.
    pub logprobs: Option<u16>,
    /// The same for each token of the prompt but the first.
    pub prompt_logprobs: Option<u16>,
    /// The logits of every row, prompt and output.
    pub logits: bool,
    /// Smaller is admitted earlier; equal is by arrival. Urgent sequences without end keep others
    /// waiting without end.
    pub priority: i32,
    /// Position ids of the prompt's tokens instead of 0, 1, 2, ..; sampled tokens count up from the
    /// last.
    pub positions: Option<Arc<[u32]>>,
}

impl NewSequence {
    /// A sequence that runs until a stop token or the end of the context, with nothing else wanted.
    pub fn new(prompt: impl Into<Arc<[TokenId]>>, sampling: Arc<SamplingParams>) -> Self {
        Self {
            prompt: prompt.into(),
            sampling,
            max_tokens: None,
            logprobs: None,
            prompt_logprobs: None,
            logits: false,
            priority: 0,
            positions: None,
        }
    }

    /// Tokens that it may sample under `config`: what is asked for, clamped to what context,
    /// positions and KV cache have room for.
    ///
    /// Errors if it could not run even alone, as [`Scheduler::add`](crate::Scheduler::add) does.
    pub fn max_tokens(&self, config: &SchedConfig) -> Result<usize> {
        let prompt_len = self.prompt.len();
        if prompt_len == 0 {
            return Err(SchedError::EmptyPrompt);
        }
        let next_position = self.next_position(config.max_positions)?;
        let in_context = config.context.checked_sub(prompt_len);
        let in_positions = config.max_positions.checked_sub(next_position);
        let samples = self.max_tokens != Some(0);
        let least = |room: &usize| *room > 0 || !samples;
        let fits = in_context.is_some() && in_positions.is_some();
        let trouble = if fits { "which leaves no room for one more" } else { "more than there is room for" };
        let context = in_context.filter(least).ok_or_else(|| SchedError::PromptTooLong {
            prompt_len,
            trouble,
            bound: format!("the context is {} tokens, prompt and output together", config.context),
            remedy: if config.context < config.max_positions {
                format!("shorten it, or give a --max-model-len of up to {}", config.max_positions)
            } else {
                "shorten it".into()
            },
        })?;
        let positions = in_positions.filter(least).ok_or_else(|| SchedError::PromptTooLong {
            prompt_len,
            trouble,
            bound: format!(
                "the model has {} positions and {next_position} are behind it",
                config.max_positions
            ),
            remedy: "shorten it".into(),
        })?;
        let room = context.min(positions);
        let max_tokens = match self.max_tokens {
            Some(max_tokens) => max_tokens.min(room),
            // At least one, so that a prompt too long for the cache is told so below.
            None => {
                config.cache_positions().map_or(room, |n| room.min((n + 1).saturating_sub(prompt_len)).max(1))
            }
        };
        let needed = config.blocks_for(kv_len(prompt_len, max_tokens));
        match config.num_blocks.iter().map(|n| n - 1).find(|available| *available < needed) {
            Some(available) => {
                let block_len = config.block_len;
                Err(SchedError::NeverFits { prompt_len, max_tokens, needed, available, block_len })
            }
            None => Ok(max_tokens),
        }
    }

    /// Position id of the first sampled token.
    fn next_position(&self, max_positions: usize) -> Result<usize> {
        let Some(positions) = &self.positions else { return Ok(self.prompt.len()) };
        let bad = |problem| Err(SchedError::BadPositions { problem });
        if positions.len() != self.prompt.len() {
            let (given, needed) = (positions.len(), self.prompt.len());
            return bad(format!("{given} are given for a prompt of {needed} tokens; give one for each"));
        }
        if let Some(position) = positions.iter().find(|p| **p as usize >= max_positions) {
            return bad(format!("{position} is given; the model has 0 to {}", max_positions - 1));
        }
        Ok(positions.last().map_or(0, |last| *last as usize + 1))
    }
}

/// KV positions of a finished sequence: its last token is sampled and never run.
const fn kv_len(prompt_len: usize, max_tokens: usize) -> usize {
    prompt_len + max_tokens.saturating_sub(1)
}

/// What a sequence holds from its admission to its end.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) slot: SlotId,
    /// One block table per KV group, no longer than `computed` needs.
    pub(crate) tables: Vec<Arc<[BlockId]>>,
}

/// A sequence that was added and is not yet forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) new: NewSequence,
    /// Tokens that it samples at most: what was asked for, clamped.
    pub(crate) max_tokens: usize,
    /// Sampled and committed.
    pub(crate) output: Vec<TokenId>,
    /// Number of sampled tokens, including those of steps in flight.
    pub(crate) num_sampled: usize,
    /// Tokens whose keys and values are in the cache, or will be when all planned steps have run.
    pub(crate) computed: usize,
    /// Slot and blocks; `None` while it waits.
    pub(crate) held: Option<Held>,
    /// Uncommitted steps that it is part of.
    pub(crate) in_flight: usize,
    /// The last step that it was part of, for turns.
    pub(crate) last_step: StepId,
    /// Set at its end; what it holds stays pinned while `in_flight` is above 0.
    pub(crate) finished: Option<FinishReason>,
}

impl Sequence {
    pub(crate) fn new(new: NewSequence, max_tokens: usize) -> Self {
        Self {
            new,
            max_tokens,
            output: Vec::new(),
            num_sampled: 0,
            computed: 0,
            held: None,
            in_flight: 0,
            last_step: StepId(0),
            finished: None,
        }
    }

    pub(crate) fn prompt_len(&self) -> usize {
        self.new.prompt.len()
    }

    /// Tokens that the host or the device knows: all that can be run.
    pub(crate) fn known_len(&self) -> usize {
        self.prompt_len() + self.num_sampled
    }

    /// Tokens that wait to be run. The last of `max_tokens` never is.
    pub(crate) fn num_pending(&self) -> usize {
        let runnable = kv_len(self.prompt_len(), self.max_tokens).min(self.known_len());
        if self.finished.is_some() { 0 } else { runnable - self.computed }
    }

    /// KV positions that it may come to need.
    pub(crate) fn max_kv_len(&self) -> usize {
        kv_len(self.prompt_len(), self.max_tokens)
    }

    /// The token at `index`, which is below [`known_len`](Self::known_len).
    pub(crate) fn token(&self, index: usize) -> Source<TokenId> {
        let sampled = || self.output.get(index - self.prompt_len());
        self.new.prompt.get(index).or_else(sampled).map_or(Source::Slot, |token| Source::Host(*token))
    }

    /// The position id of the token at `index`.
    pub(crate) fn position(&self, index: usize) -> u32 {
        match &self.new.positions {
            None => index as u32,
            Some(positions) => positions.get(index).copied().unwrap_or_else(|| {
                let last = positions.last().map_or(0, |last| last + 1);
                last + (index - positions.len()) as u32
            }),
        }
    }

    /// What is wanted of the row at `index`; `at` is its place among the step's new tokens.
    pub(crate) fn output_row(&self, index: usize, at: usize) -> Option<OutputRow> {
        let sample = index + 1 == self.known_len() && self.num_sampled < self.max_tokens;
        let scored = self.new.prompt_logprobs.filter(|_| index + 1 < self.prompt_len());
        let target = scored.map(|_| self.new.prompt[index + 1]);
        let top_logprobs = if sample { self.new.logprobs } else { scored };
        let values = self.new.logits;
        let row = OutputRow { sample, target, top_logprobs, values, ..OutputRow::new(at as u32) };
        (sample || target.is_some() || values).then_some(row)
    }
}
