//! The scheduler's state, and how sequences enter and leave it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nvllm_core::{BlockId, OutputRow, SamplingParams, SeqId, SlotId, StepId};
use slab::Slab;

use crate::entries::Entries;
use crate::pool::BlockPool;
use crate::queue::Queue;
use crate::sequence::{Key, Phase, Sequence};
use crate::{Admitted, FinishReason, NewSequence, Result, SchedConfig, SeqEvent};

/// One sequence's part of an uncommitted step.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) key: Key,
    /// Index in the sequence of the step's first new token.
    pub(crate) first: usize,
    /// New tokens.
    pub(crate) len: usize,
    /// How many of the step's rows are its own: those that follow the ones of the part before.
    pub(crate) num_rows: usize,
}

/// An uncommitted step.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    pub(crate) id: StepId,
    pub(crate) parts: Vec<Part>,
    /// The output rows of all parts.
    pub(crate) rows: Vec<OutputRow>,
    /// Blocks that it copies from, by KV group, held for that.
    pub(crate) copied: Vec<(usize, BlockId)>,
}

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that wait for a slot, preempted ones too.
    pub num_waiting: usize,
    /// Sequences with a slot that are not finished.
    pub num_running: usize,
    /// Finished or preempted sequences whose last step is not yet committed.
    pub num_ending: usize,
    /// Steps planned and not yet committed.
    pub num_in_flight: usize,
    /// KV blocks that sequences hold, all groups.
    pub used_blocks: usize,
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
    /// Prompt tokens that they computed, again after a preemption.
    pub num_prompt_tokens: u64,
    /// Tokens that they sampled, less those that came after their sequence's end.
    pub num_output_tokens: u64,
    /// Tokens of the prompts that were admitted.
    pub num_queried_tokens: u64,
    /// Those of them whose keys and values were in the cache.
    pub num_cached_tokens: u64,
    /// Sequences preempted.
    pub num_preemptions: u64,
}

/// Decides what runs. See the [crate] for the policy.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(crate) config: SchedConfig,
    pub(crate) pools: Vec<BlockPool>,
    /// Slots that nobody holds.
    pub(crate) free_slots: BTreeSet<SlotId>,
    /// All sequences that are not forgotten.
    pub(crate) seqs: Slab<Sequence>,
    pub(crate) keys: HashMap<SeqId, Key>,
    /// Those in phase `Waiting`.
    pub(crate) queue: Queue,
    /// Those in phase `Running`, in order of turns.
    pub(crate) running: Vec<Key>,
    /// Finished and preempted ones, whose steps in flight pin what they hold.
    pub(crate) num_pinned: usize,
    /// Those that end by the clock.
    pub(crate) deadlines: BTreeSet<(Duration, SeqId)>,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// The entries that sequences are run by.
    pub(crate) entries: Entries,
    /// A committed step, emptied, whose memory the next one takes.
    pub(crate) spare_flight: Option<InFlight>,
    /// The order of turns of the step in the making; between steps only its memory counts.
    pub(crate) turns: Vec<Key>,
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
            pools: config.groups.iter().map(|group| BlockPool::new(group.num_blocks)).collect(),
            free_slots: (0..config.seqs).map(|i| SlotId(i as u32)).collect(),
            seqs: Slab::new(),
            keys: HashMap::new(),
            // A turn of a tenant is what fills one step.
            queue: Queue::new(&config.tenant_weights, config.step_tokens),
            running: Vec::new(),
            num_pinned: 0,
            deadlines: BTreeSet::new(),
            in_flight: VecDeque::new(),
            entries: Entries::default(),
            spare_flight: None,
            turns: Vec::new(),
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

    /// Queues a sequence. Errors, with nothing changed, if it could never run.
    pub fn add(&mut self, new: NewSequence) -> Result<SeqId> {
        let max_tokens = new.check(1, &self.config)?;
        let key = self.insert(new, max_tokens);
        self.enqueue(key);
        Ok(self.seqs[key].id)
    }

    /// Queues `n` choices of one prompt, which is computed once: choices after the first share its
    /// blocks. They differ by [`SamplingParams::choice`], counted up from that of `new`; rows of
    /// the prompt are reported by the first only.
    ///
    /// Errors, with nothing changed, if they could never run together.
    pub fn add_choices(&mut self, new: &NewSequence, n: usize) -> Result<Vec<SeqId>> {
        let max_tokens = new.check(n, &self.config)?;
        let first = self.insert(new.clone(), max_tokens);
        for i in 1..n {
            let choice = new.sampling.choice.wrapping_add(i as u32);
            let sampling = Arc::new(SamplingParams { choice, ..(*new.sampling).clone() });
            let key = self.insert(NewSequence { sampling, ..new.clone() }, max_tokens);
            let leader = self.seqs[first].id;
            let follower = &mut self.seqs[key];
            follower.phase = Phase::Following;
            follower.leader = Some(leader);
            follower.reported = follower.prompt_len() - 1;
            self.seqs[first].followers.push(key);
        }
        self.enqueue(first);
        let ids = std::iter::once(first).chain(self.seqs[first].followers.iter().copied());
        Ok(ids.map(|key| self.seqs[key].id).collect())
    }

    fn insert(&mut self, new: NewSequence, max_tokens: usize) -> Key {
        let id = self.next_seq;
        self.next_seq.0 += 1;
        self.deadlines.extend(new.deadline.map(|at| (at, id)));
        self.entries.insert(new.entry);
        let key = self.seqs.insert(Sequence::new(id, new, max_tokens));
        self.keys.insert(id, key);
        key
    }

    fn enqueue(&mut self, key: Key) {
        let seq = &mut self.seqs[key];
        seq.phase = Phase::Waiting;
        self.queue.push(seq.place(), seq.id);
    }

    /// Queues the choices that wait for a sequence's prompt: it is computed, or will not be.
    pub(crate) fn enqueue_followers(&mut self, key: Key) {
        for follower in std::mem::take(&mut self.seqs[key].followers) {
            self.enqueue(follower);
        }
    }

    /// Ends a sequence on behalf of its client; see [`finish`](Self::finish).
    pub fn abort(&mut self, seq: SeqId) -> Option<SeqEvent> {
        self.finish(seq, FinishReason::Aborted)
    }

    /// Ends all sequences whose deadline is not after `now`, on the clock that their deadlines were
    /// read from.
    pub fn expire(&mut self, now: Duration) -> Vec<SeqEvent> {
        let mut events = Vec::new();
        while let Some((_, seq)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            events.extend(self.finish(seq, FinishReason::Deadline));
        }
        events
    }

    /// Ends a sequence wherever it is. What it holds stays pinned until the last step that it is
    /// part of is committed, and what steps made for it is discarded.
    ///
    /// Returns its last event, or `None` if it has ended already or never was: a client may give up
    /// at any time.
    pub fn finish(&mut self, seq: SeqId, reason: FinishReason) -> Option<SeqEvent> {
        let key = *self.keys.get(&seq)?;
        self.finish_key(key, reason)
    }

    pub(crate) fn finish_key(&mut self, key: Key, reason: FinishReason) -> Option<SeqEvent> {
        let state = &mut self.seqs[key];
        let (seq, phase) = (state.id, state.phase);
        if state.is_finished() {
            return None;
        }
        state.phase = Phase::Finished(reason);
        if let Some(at) = state.new.deadline {
            self.deadlines.remove(&(at, seq));
        }
        match phase {
            Phase::Waiting => self.queue.remove(state.place(), seq),
            Phase::Following => {
                let leader = state.leader.and_then(|leader| self.keys.get(&leader).copied());
                leader.into_iter().for_each(|leader| self.seqs[leader].followers.retain(|k| *k != key));
            }
            Phase::Running => {
                self.running.retain(|running| *running != key);
                self.num_pinned += 1;
            }
            Phase::Preempted | Phase::Finished(_) => {}
        }
        self.enqueue_followers(key);
        self.settle(key);
        Some(SeqEvent::Finished { seq, reason })
    }

    /// Takes back what a finished or preempted sequence holds, once no uncommitted step uses it.
    /// The finished one is forgotten, and the preempted one waits again.
    pub(crate) fn settle(&mut self, key: Key) {
        let seq = &mut self.seqs[key];
        let phase = seq.phase;
        if seq.in_flight > 0 || !matches!(phase, Phase::Finished(_) | Phase::Preempted) {
            return;
        }
        if let Some(held) = seq.allocation.take() {
            self.num_pinned -= 1;
            self.free_slots.insert(held.slot);
            for (pool, table) in self.pools.iter_mut().zip(&held.tables) {
                pool.release(table);
            }
        }
        if phase == Phase::Preempted {
            (seq.computed, seq.committed) = (0, 0);
            seq.num_published = 0;
            seq.is_private = false;
            seq.phase = Phase::Waiting;
            self.queue.resume(seq.place(), seq.id);
        } else {
            self.keys.remove(&seq.id);
            self.seqs.remove(key);
        }
    }

    /// Makes one more tenant known, whose id is the number of those that are. A weight of 0 counts
    /// as 1.
    pub fn add_tenant(&mut self, weight: u32) {
        self.config.tenant_weights.push(weight.max(1));
        self.queue.add_tenant(weight.max(1));
    }

    /// Forgets all prefixes: no sequence that is admitted from now on finds what was computed
    /// before. Those that run keep their blocks, which others no longer find, and what they go on
    /// to compute from them is not found either.
    pub fn reset_prefix_cache(&mut self) {
        self.pools.iter_mut().for_each(BlockPool::forget_all);
        for (_, seq) in &mut self.seqs {
            seq.is_private = seq.allocation.is_some();
        }
    }

    /// Whether there is nothing to do and nothing to wait for.
    pub fn is_idle(&self) -> bool {
        self.seqs.is_empty() && self.in_flight.is_empty()
    }

    /// Counts for metrics.
    pub fn stats(&self) -> Stats {
        Stats {
            num_waiting: self.seqs.len() - self.running.len() - self.num_pinned,
            num_running: self.running.len(),
            num_ending: self.num_pinned,
            num_in_flight: self.in_flight.len(),
            used_blocks: self.pools.iter().map(BlockPool::num_used).sum(),
            total_blocks: self.pools.iter().map(BlockPool::num_total).sum(),
            totals: self.totals,
        }
    }
}
