//! The scheduler's state, and how sequences enter and leave it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nvllm_core::{OutputRow, SeqId, SlotId, StepId};

use crate::pool::BlockPool;
use crate::sequence::Sequence;
use crate::{Admitted, FinishReason, NewSequence, Result, SchedConfig, SeqEvent};

/// One sequence's part of an uncommitted step.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) seq: SeqId,
    /// Index in the sequence of the step's first new token.
    pub(crate) first: usize,
    /// New tokens.
    pub(crate) len: usize,
    pub(crate) rows: Vec<OutputRow>,
}

/// An uncommitted step.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) id: StepId,
    pub(crate) parts: Vec<Part>,
}

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences without a slot.
    pub num_waiting: usize,
    /// Sequences with a slot that are not finished.
    pub num_running: usize,
    /// Finished sequences whose last step is not yet committed.
    pub num_ending: usize,
    /// Steps planned and not yet committed.
    pub num_in_flight: usize,
    /// KV blocks that sequences hold, all groups.
    pub used_blocks: usize,
    /// Free KV blocks that running sequences may yet need, all groups.
    pub promised_blocks: usize,
    /// KV blocks there are, all groups, null blocks not counted.
    pub total_blocks: usize,
    /// Totals since the scheduler was made.
    pub totals: Totals,
}

/// What all committed steps came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Committed steps.
    pub num_steps: u64,
    /// Prompt tokens that they computed.
    pub num_prompt_tokens: u64,
    /// Tokens that they sampled, less those that came after their sequence's end.
    pub num_output_tokens: u64,
}

/// Decides what runs. See the [crate] for the policy.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(crate) config: SchedConfig,
    pub(crate) pools: Vec<BlockPool>,
    /// Slots that nobody holds.
    pub(crate) free_slots: BTreeSet<SlotId>,
    /// All sequences that are not forgotten.
    pub(crate) seqs: BTreeMap<SeqId, Sequence>,
    /// Those without a slot. Ids ascend, so they stand for arrival.
    pub(crate) waiting: BTreeSet<(i32, SeqId)>,
    /// Those with a slot that are not finished, in order of turns.
    pub(crate) running: Vec<SeqId>,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// Those that the last call of `plan` gave a slot.
    pub(crate) admitted: Vec<Admitted>,
    pub(crate) totals: Totals,
    pub(crate) next_seq: SeqId,
    pub(crate) next_step: StepId,
}

impl Scheduler {
    /// An idle scheduler. Errors if `config` can run nothing.
    pub fn new(config: SchedConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            pools: config.num_blocks.iter().map(|&n| BlockPool::new(n)).collect(),
            free_slots: (0..config.seqs).map(|i| SlotId(i as u32)).collect(),
            seqs: BTreeMap::new(),
            waiting: BTreeSet::new(),
            running: Vec::new(),
            in_flight: VecDeque::new(),
            admitted: Vec::new(),
            totals: Totals::default(),
            // From 1, so that 0 in a trace or a default is nobody.
            next_seq: SeqId(1),
            next_step: StepId(1),
            config,
        })
    }

    /// What it hands out.
    pub fn config(&self) -> &SchedConfig {
        &self.config
    }

    /// Puts a sequence into the queue.
    ///
    /// Errors if it could not run even alone: an empty prompt, one that leaves no room in the
    /// context or the model's positions, position ids that do not fit the prompt, more KV blocks
    /// than there are.
    pub fn add(&mut self, new: NewSequence) -> Result<SeqId> {
        let max_tokens = new.max_tokens(&self.config)?;
        let id = self.next_seq;
        self.next_seq.0 += 1;
        self.waiting.insert((new.priority, id));
        self.seqs.insert(id, Sequence::new(new, max_tokens));
        Ok(id)
    }

    /// Ends a sequence that its client no longer wants: [`finish`](Self::finish) with
    /// [`FinishReason::Aborted`].
    pub fn abort(&mut self, seq: SeqId) -> Option<SeqEvent> {
        self.finish(seq, FinishReason::Aborted)
    }

    /// Ends a sequence for a reason that the scheduler cannot see, such as a stop string. What
    /// uncommitted steps made for it is discarded.
    ///
    /// Returns its last event, or `None` if it has ended already or never was: a client may give up
    /// at any time.
    pub fn finish(&mut self, seq: SeqId, reason: FinishReason) -> Option<SeqEvent> {
        let state = self.seqs.get_mut(&seq)?;
        if state.finished.is_some() {
            return None;
        }
        state.finished = Some(reason);
        self.waiting.remove(&(state.new.priority, seq));
        self.running.retain(|running| *running != seq);
        self.forget_if_unpinned(seq);
        Some(SeqEvent::Finished { seq, reason })
    }

    /// Takes back what a finished sequence holds, once no uncommitted step uses it.
    pub(crate) fn forget_if_unpinned(&mut self, seq: SeqId) {
        if !self.seqs.get(&seq).is_some_and(|s| s.finished.is_some() && s.in_flight == 0) {
            return;
        }
        let Some(held) = self.seqs.remove(&seq).and_then(|s| s.held) else { return };
        self.free_slots.insert(held.slot);
        for (pool, table) in self.pools.iter_mut().zip(&held.tables) {
            pool.release(table);
        }
    }

    /// Free blocks of `group` that running sequences may yet need: those of all their tokens, less
    /// those that they hold.
    pub(crate) fn promised(&self, group: usize) -> usize {
        let outstanding = |s: &Sequence| {
            let held = s.held.as_ref().map_or(0, |held| held.tables[group].len());
            self.config.blocks_for(s.max_kv_len()).saturating_sub(held)
        };
        self.running.iter().filter_map(|id| self.seqs.get(id)).map(outstanding).sum()
    }

    /// Whether there is nothing to do and nothing to wait for.
    pub fn is_idle(&self) -> bool {
        self.seqs.is_empty() && self.in_flight.is_empty()
    }

    /// Counts for metrics.
    pub fn stats(&self) -> Stats {
        Stats {
            num_waiting: self.waiting.len(),
            num_running: self.running.len(),
            num_ending: self.seqs.len() - self.waiting.len() - self.running.len(),
            num_in_flight: self.in_flight.len(),
            used_blocks: self.pools.iter().map(BlockPool::num_used).sum(),
            promised_blocks: (0..self.pools.len()).map(|group| self.promised(group)).sum(),
            total_blocks: self.pools.iter().map(BlockPool::num_total).sum(),
            totals: self.totals,
        }
    }
}
