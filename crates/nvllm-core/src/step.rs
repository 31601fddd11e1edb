//! One step: a ragged batch with no prefill or decode phases. Each sequence has computed tokens
//! that catch up with its known tokens.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::{BlockId, EntryId, KvGeometry, SamplingParams, SlotId, StepId, Tensor, TokenId};

/// A number that the host knows, or that only the device knows yet because the step before is still
/// in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<T> {
    /// Known on the host.
    Host(T),
    /// From the sequence's slot: its last sampled token, its KV length, or its next position.
    Slot,
}

/// Puts a sequence into a slot, before the step's tokens are run: sampler state starts from these
/// tokens.
#[derive(Clone, Debug)]
pub struct SlotReset {
    /// The slot.
    pub slot: SlotId,
    /// The prompt: seen by the repetition penalty.
    pub prompt: Arc<[TokenId]>,
    /// Output so far (after preemption): seen by all penalties.
    pub output: Arc<[TokenId]>,
    /// How this sequence is sampled.
    pub sampling: Arc<SamplingParams>,
}

/// A KV block that is copied to another before the step's tokens are run: copy on write, as when
/// two samples of one prompt part in its last, partly filled block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// The KV group of both blocks.
    pub group: usize,
    /// Holds what every earlier step wrote.
    pub from: BlockId,
    /// Overwritten, all layers of it.
    pub to: BlockId,
}

/// A row of the step whose result is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputRow {
    /// Index into the sequence's new tokens.
    pub index: u32,
    /// Whether the next token is sampled from this row.
    pub sample: bool,
    /// Whether sampling this row waits for [`supply_masks`](crate::Executable::supply_masks). Rows
    /// that wait for none are sampled at once.
    pub awaits_mask: bool,
    /// A token whose log-probability at this row is wanted (scoring a prompt).
    pub target: Option<TokenId>,
    /// Whether log-probabilities of the sampled token (or target) are wanted, and of how many of
    /// the most likely beside it. A target is always scored.
    pub top_logprobs: Option<u16>,
    /// Whether the row itself is wanted: logits, or hidden states if the program makes those.
    pub values: bool,
}

impl OutputRow {
    /// Wants nothing of the row at `index`: to be filled in.
    pub const fn new(index: u32) -> Self {
        Self { index, sample: false, awaits_mask: false, target: None, top_logprobs: None, values: false }
    }

    /// Samples from the row at `index`.
    pub const fn sample(index: u32) -> Self {
        Self { sample: true, ..Self::new(index) }
    }

    /// Returns the row at `index`.
    pub const fn values(index: u32) -> Self {
        Self { values: true, ..Self::new(index) }
    }

    /// Whether log-probabilities of a token at this row are wanted.
    pub const fn scored(&self) -> bool {
        self.target.is_some() || (self.sample && self.top_logprobs.is_some())
    }
}

/// A list that is stored inline while it has one item, as most do in a step that decodes: such a
/// step allocates nothing for its sequences.
pub type InlineVec<T> = SmallVec<[T; 1]>;

/// One sequence's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqStep {
    /// Its slot.
    pub slot: SlotId,
    /// New tokens, at least one.
    pub tokens: InlineVec<Source<TokenId>>,
    /// Position id of each new token (for rope), apart from its KV index.
    pub positions: InlineVec<Source<u32>>,
    /// KV index of the first new token: how many tokens the cache holds already. Earlier steps
    /// wrote them, no sequence of this one: a backend may read them before it appends this step's.
    pub kv_start: Source<u32>,
    /// One block table per KV group, covering every KV index up to the last new token. In a group
    /// with a window, blocks that no new token sees ([`KvGeometry::num_unseen`]) may be the null
    /// block.
    pub block_tables: InlineVec<Arc<[BlockId]>>,
    /// Rows whose results are wanted, ascending.
    pub outputs: InlineVec<OutputRow>,
}

/// One forward pass.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Its number, for messages and traces.
    pub id: StepId,
    /// The program that runs.
    pub entry: EntryId,
    /// Slots taken anew.
    pub resets: Vec<SlotReset>,
    /// Blocks copied after every earlier step and before this step's tokens. No block is written
    /// twice, and none that is written is read, so their order does not matter.
    pub copies: Vec<BlockCopy>,
    /// The sequences, each in a slot of its own.
    pub seqs: Vec<SeqStep>,
}

impl Step {
    /// New tokens over all sequences.
    pub fn num_tokens(&self) -> usize {
        self.seqs.iter().map(|s| s.tokens.len()).sum()
    }

    /// Refuses copies that cannot be: what is wrong with the first such.
    ///
    /// Errors if a group or block does not exist, a block is the null block, or a destination is
    /// another copy's destination or any copy's source.
    pub fn check_copies(&self, kv: &[KvGeometry]) -> Result<(), String> {
        let sources: HashSet<_> = self.copies.iter().map(|copy| (copy.group, copy.from)).collect();
        let mut written = HashSet::new();
        for &BlockCopy { group, from, to } in &self.copies {
            let Some(geometry) = kv.get(group) else {
                return Err(format!("copies a block of KV group {group}; {} exist", kv.len()));
            };
            let problem = |what: &str| Err(format!("copies block {from} of KV group {group} to {to}{what}"));
            if [from, to].iter().any(|&block| block == BlockId::NULL || block.index() >= geometry.num_blocks)
            {
                return problem(&format!("; blocks 1 to {} exist", geometry.num_blocks - 1));
            }
            if sources.contains(&(group, to)) {
                return problem(", from which it copies too");
            }
            if !written.insert((group, to)) {
                return problem(" twice");
            }
        }
        Ok(())
    }

    /// Whether some row waits for its mask.
    pub fn awaits_masks(&self) -> bool {
        self.seqs.iter().flat_map(|seq| &seq.outputs).any(|row| row.awaits_mask)
    }

    /// Output rows over all sequences.
    pub fn num_outputs(&self) -> usize {
        self.seqs.iter().map(|s| s.outputs.len()).sum()
    }
}

/// A submitted step. Not clonable: it is collected once.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(pub StepId);

/// Grammar masks for the rows of a step that await them: one bit a token, 1 = allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMasks {
    /// `(row, words)`: an output row, counted over the step, and its mask, token `t` at bit `t %
    /// 32` of word `t / 32`. Tokens past the last word are not allowed. In a waiting row that is
    /// not named all tokens are.
    pub rows: Vec<(usize, Vec<u32>)>,
}

impl TokenMasks {
    /// The mask of an output row.
    pub fn of(&self, row: usize) -> Option<&[u32]> {
        self.rows.iter().find(|(at, _)| *at == row).map(|(_, words)| words.as_slice())
    }
}

/// Log-probabilities at one row: of the model's own distribution, before any sampling parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogprobs {
    /// Of the sampled token, or of the target.
    pub logprob: f32,
    /// The most likely tokens, descending (ties: lower id first).
    pub top: Vec<(TokenId, f32)>,
}

/// What a step made of one output row.
#[derive(Default)]
pub struct RowOutput {
    /// The sampled token, if one was asked for.
    pub token: Option<TokenId>,
    /// Log-probabilities, if a target or the sampled token was to be scored.
    pub logprobs: Option<TokenLogprobs>,
    /// The row of the program's output `[n]`, if asked for: logits `[vocab]` f32, or hidden states.
    pub values: Option<Box<dyn Tensor>>,
    /// Whether a token was to be sampled or scored from logits that hold NaN or infinity: see
    /// [`sampling::is_usable`](crate::sampling::is_usable). No token and no log-probabilities come
    /// with it.
    pub unusable: bool,
}

/// When the device worked on a step, on a clock of its own: only differences mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSpan {
    /// The start of its first copy or kernel. Waiting for inputs to arrive is not work.
    pub began: Duration,
    /// The end of its last kernel, masked rows included: not before it began, and not after the
    /// next step begins.
    pub ended: Duration,
}

/// What a step made.
#[derive(Default)]
pub struct StepOutput {
    /// One for each output row, in step order.
    pub rows: Vec<RowOutput>,
    /// When the device worked on it; `None` if the device cannot tell.
    pub span: Option<StepSpan>,
}
