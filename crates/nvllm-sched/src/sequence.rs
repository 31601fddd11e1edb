//! A sequence: what was asked for, and how far it has come.

use std::sync::Arc;
use std::time::Duration;

use nvllm_core::{
    BlockId, EntryId, InlineVec, OutputRow, SamplingParams, SeqId, SlotId, Source, StepId, TokenId,
};
use smallvec::SmallVec;

use crate::prefix::BlockHash;
use crate::queue::Place;
use crate::tenant::TenantId;
use crate::{FinishReason, GroupConfig, Result, SchedConfig, SchedError};

/// Where a sequence is in `Scheduler::seqs`.
pub(crate) type Key = usize;

/// What a sequence is to do.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// The prompt, at least one token.
    pub prompt: Arc<[TokenId]>,
    /// The program that runs it. All store the same keys and values, so that sequences of one find
    /// the prefixes of another.
    pub entry: EntryId,
    /// How it is sampled. Its `stop_tokens` end the sequence: the one list for that, so that what
    /// the sampler suppresses under `min_tokens` and what ends a sequence cannot differ. To ignore
    /// an end-of-text token, leave it out.
    pub sampling: Arc<SamplingParams>,
    /// Tokens to sample at most. More than the context has room for is clamped to that; `None` is
    /// as many as context and KV cache have room for. 0 only computes the prompt.
    pub max_tokens: Option<usize>,
    /// Log-probabilities of each sampled token and of this many of the most likely ones.
    pub logprobs: Option<u16>,
    /// The same for each token of the prompt but the first.
    pub prompt_logprobs: Option<u16>,
    /// The logits of every row, prompt and output.
    pub logits: bool,
    /// The row of the prompt's last token as the entry hands it out: logits or hidden states. With
    /// `max_tokens` 0 it is all that comes.
    pub last_row: bool,
    /// Whether each token that it samples awaits a mask: see [`Scheduler::masked_rows`].
    ///
    /// [`Scheduler::masked_rows`]: crate::Scheduler::masked_rows
    pub masked: bool,
    /// Smaller is admitted earlier, and preempts running sequences of a larger number where slots
    /// or blocks are lacking; among equals tenants take turns, and each tenant's go by arrival.
    /// Urgent sequences without end keep others waiting without end.
    pub priority: i32,
    /// Position ids of the prompt's tokens instead of 0, 1, 2, ..; sampled tokens count up from the
    /// last.
    pub positions: Option<Arc<[u32]>>,
    /// Whose it is: tenants of one priority take turns.
    pub tenant: TenantId,
    /// Keys and values are shared only between sequences with the same salt.
    pub cache_salt: Option<Arc<str>>,
    /// When it ends at the latest, by the clock that [`Scheduler::expire`] is told.
    ///
    /// [`Scheduler::expire`]: crate::Scheduler::expire
    pub deadline: Option<Duration>,
}

impl NewSequence {
    /// A sequence that runs until a stop token or the end of the context, with nothing else wanted.
    pub fn new(prompt: impl Into<Arc<[TokenId]>>, sampling: Arc<SamplingParams>) -> Self {
        Self {
            prompt: prompt.into(),
            entry: EntryId::GENERATE,
            sampling,
            max_tokens: None,
            logprobs: None,
            prompt_logprobs: None,
            logits: false,
            last_row: false,
            masked: false,
            priority: 0,
            positions: None,
            tenant: TenantId::default(),
            cache_salt: None,
            deadline: None,
        }
    }

    /// Errors if `n` choices of it could not run, even with nothing else running.
    ///
    /// Returns the tokens that each may sample: what is asked for, clamped to what context,
    /// positions and KV cache have room for.
    pub fn check(&self, n: usize, config: &SchedConfig) -> Result<usize> {
        if n == 0 || n > config.seqs {
            return Err(SchedError::BadChoices { n, slots: config.seqs });
        }
        if self.tenant.index() >= config.tenant_weights.len() {
            let (tenant, num_tenants) = (self.tenant.0, config.tenant_weights.len());
            return Err(SchedError::UnknownTenant { tenant, num_tenants });
        }
        self.max_tokens(config)
    }

    fn max_tokens(&self, config: &SchedConfig) -> Result<usize> {
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
        let kv_len = kv_len(prompt_len, max_tokens);
        let lacking = |group: &&GroupConfig| config.blocks_at_once(group, kv_len) > group.num_blocks - 1;
        match config.groups.iter().find(lacking) {
            Some(group) => Err(SchedError::NeverFits {
                prompt_len,
                max_tokens,
                needed: config.blocks_at_once(group, kv_len),
                available: group.num_blocks - 1,
                block_len: config.block_len,
            }),
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

/// What a sequence holds while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) slot: SlotId,
    /// One block table per KV group, no longer than `computed` needs.
    pub(crate) tables: InlineVec<Arc<[BlockId]>>,
    /// How many blocks at the beginning of each table were given back, as no later row sees them:
    /// these entries are null.
    pub(crate) given_back: InlineVec<usize>,
}

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the queue.
    Waiting,
    /// Outside of the queue: another choice of its prompt is being computed, which this one will
    /// share.
    Following,
    /// It has a slot, and takes part in steps.
    Running,
    /// Preempted. Its slot and blocks are free, and it waits again, once no step in flight uses
    /// them.
    Preempted,
    /// At its end. What it holds stays pinned while a step in flight uses it.
    Finished(FinishReason),
}

/// A sequence that was added and is not yet forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SeqId,
    pub(crate) new: NewSequence,
    /// Tokens that it samples at most: what was asked for, clamped.
    pub(crate) max_tokens: usize,
    /// Those of its sampling parameters, close at hand: every sampled token is compared with them.
    pub(crate) stop_tokens: SmallVec<[TokenId; 4]>,
    /// Sampled and committed.
    pub(crate) output: Vec<TokenId>,
    /// Number of sampled tokens, including those of steps in flight.
    pub(crate) num_sampled: usize,
    /// Tokens whose keys and values are in the cache, or will be when all planned steps have run.
    pub(crate) computed: usize,
    /// Those of them whose steps are committed: others may read them.
    pub(crate) committed: usize,
    /// Rows below this index have been reported, by this sequence or, for another choice of its
    /// prompt, by the first: they are not asked for again.
    pub(crate) reported: usize,
    pub(crate) phase: Phase,
    /// Slot and blocks, from admission to the end or to preemption.
    pub(crate) allocation: Option<Allocation>,
    /// Uncommitted steps that it is part of.
    pub(crate) in_flight: usize,
    /// Whether a step that it was part of failed, or made no numbers: what later steps computed
    /// from that is worth nothing to others.
    pub(crate) is_lost: bool,
    /// The last step that it was part of, for turns.
    pub(crate) last_step: StepId,
    /// Hashes of its full blocks, as far as they were needed.
    pub(crate) hashes: Vec<BlockHash>,
    /// Full blocks that other sequences can find.
    pub(crate) num_published: usize,
    /// Whether it holds keys and values from before the prefix cache was reset: no other sequence
    /// is to find what it computes from them.
    pub(crate) is_private: bool,
    /// Other choices of its prompt that wait for it to be computed.
    pub(crate) followers: Vec<Key>,
    /// The choice whose blocks it shares, if that still runs at its admission.
    pub(crate) leader: Option<SeqId>,
}

impl Sequence {
    pub(crate) fn new(id: SeqId, new: NewSequence, max_tokens: usize) -> Self {
        Self {
            id,
            stop_tokens: new.sampling.stop_tokens.as_slice().into(),
            new,
            max_tokens,
            output: Vec::new(),
            num_sampled: 0,
            computed: 0,
            committed: 0,
            reported: 0,
            phase: Phase::Waiting,
            allocation: None,
            in_flight: 0,
            is_lost: false,
            last_step: StepId(0),
            hashes: Vec::new(),
            num_published: 0,
            is_private: false,
            followers: Vec::new(),
            leader: None,
        }
    }

    pub(crate) const fn place(&self) -> Place {
        Place { priority: self.new.priority, tenant: self.new.tenant }
    }

    /// Who is preempted last: more urgent first, then earlier.
    pub(crate) const fn rank(&self) -> (i32, SeqId) {
        (self.new.priority, self.id)
    }

    pub(crate) const fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished(_))
    }

    pub(crate) fn prompt_len(&self) -> usize {
        self.new.prompt.len()
    }

    /// Tokens that the host or the device knows: all that can be run.
    pub(crate) fn known_len(&self) -> usize {
        self.prompt_len() + self.num_sampled
    }

    /// Tokens from index `first` on that wait to be run. The last of `max_tokens` never is.
    pub(crate) fn num_pending(&self, first: usize) -> usize {
        if self.is_finished() { 0 } else { self.known_kv_len() - first }
    }

    /// KV positions of all tokens that are known, the last of `max_tokens` aside.
    pub(crate) fn known_kv_len(&self) -> usize {
        self.known_len().min(self.max_kv_len())
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

    /// The tokens from index `first` on that the host knows.
    fn host_tokens(&self, first: usize) -> impl Iterator<Item = &TokenId> {
        let prompt = self.new.prompt.get(first..).unwrap_or_default();
        let output = self.output.get(first.saturating_sub(self.prompt_len())..).unwrap_or_default();
        prompt.iter().chain(output)
    }

    /// Tokens from the first on that a prefix found in the cache may stand for: not the last, which
    /// the next one is sampled from, and no row that is wanted.
    pub(crate) fn skippable(&self) -> usize {
        let last = self.known_len() - 1;
        if self.new.positions.is_some() {
            return 0;
        }
        let wanted = |index: &usize| self.output_row(*index, 0).is_some();
        let rows_wanted = self.new.logits || self.new.prompt_logprobs.is_some();
        if rows_wanted { (self.reported..last).find(wanted).unwrap_or(last) } else { last }
    }

    /// Brings `hashes` to those of the first `num` full blocks, whose tokens the host knows.
    pub(crate) fn hash_blocks(&mut self, num: usize, block_len: usize) {
        while self.hashes.len() < num {
            let before = self.hashes.last().copied();
            let before = before.unwrap_or_else(|| BlockHash::root(self.new.cache_salt.as_deref()));
            let first = self.hashes.len() * block_len;
            self.hashes.push(before.next(self.host_tokens(first).take(block_len).copied()));
        }
    }

    /// What is wanted of the row at `index`; `at` is its place among the step's new tokens.
    pub(crate) fn output_row(&self, index: usize, at: usize) -> Option<OutputRow> {
        if index < self.reported {
            return None;
        }
        let sample = index + 1 == self.known_len() && self.num_sampled < self.max_tokens;
        let scored = self.new.prompt_logprobs.filter(|_| index + 1 < self.prompt_len());
        let target = scored.map(|_| self.new.prompt[index + 1]);
        let top_logprobs = if sample { self.new.logprobs } else { scored };
        let values = self.new.logits || self.new.last_row && index + 1 == self.prompt_len();
        let awaits_mask = sample && self.new.masked;
        let row =
            OutputRow { sample, awaits_mask, target, top_logprobs, values, ..OutputRow::new(at as u32) };
        (sample || target.is_some() || values).then_some(row)
    }
}
