//! What runs next.

use std::sync::Arc;

use nvllm_core::{InlineVec, SeqStep, Source, Step};

use crate::Scheduler;
use crate::scheduler::{InFlight, Part};
use crate::sequence::Key;
use crate::sequence::{Phase, Sequence};

/// A step in the making.
pub(crate) struct Draft {
    pub(crate) step: Step,
    pub(crate) flight: InFlight,
    pub(crate) tokens_left: usize,
    pub(crate) outputs_left: usize,
    /// Whether a running sequence sits out for want of blocks.
    pub(crate) starved: bool,
}

impl Scheduler {
    /// The next step, which is in flight from now on: run it, then [`commit`](Self::commit) it, or
    /// [`fail`](Self::fail) it.
    ///
    /// `None` if `max_in_flight` steps are in flight, or if nothing can run before one of them is
    /// committed or a sequence is added.
    pub fn plan(&mut self) -> Option<Step> {
        self.admitted.clear();
        if self.in_flight.len() >= self.config.max_in_flight {
            return None;
        }
        let flight = self.spare_flight.take().unwrap_or_default();
        let mut draft = Draft {
            step: Step { id: self.next_step, ..Step::default() },
            flight: InFlight { id: self.next_step, ..flight },
            tokens_left: self.config.step_tokens,
            outputs_left: self.config.step_outputs,
            starved: false,
        };
        draft.step.seqs.reserve(self.running.len());
        if !self.fill(&mut draft) {
            self.spare_flight = Some(draft.flight);
            return None;
        }
        self.next_step.0 += 1;
        draft.flight.copied.extend(draft.step.copies.iter().map(|copy| (copy.group, copy.from)));
        self.in_flight.push_back(draft.flight);
        Some(draft.step)
    }

    /// Makes the step one of the entry that ran longest ago among those that have something that
    /// can run now. False if none has.
    fn fill(&mut self, draft: &mut Draft) -> bool {
        loop {
            let before = self.totals.num_preemptions;
            draft.starved = false;
            let mut turn = 0;
            while let Some(entry) = self.entries.get(turn) {
                draft.step.entry = entry;
                self.plan_running(draft);
                self.admit(draft);
                if !draft.flight.parts.is_empty() {
                    self.entries.ran(turn);
                    return true;
                }
                turn += 1;
            }
            // Whom the head of the queue has stopped may have been all that ran, of another entry:
            // no step will end after which the head would be looked at again.
            if self.totals.num_preemptions == before {
                return false;
            }
        }
    }

    /// Sequences of the step's entry that hold a slot, by turns: who was passed over in the step
    /// before goes first, so that budgets smaller than the number of sequences starve nobody; among
    /// equals single tokens go before chunks, which take what is left.
    ///
    /// The order is kept (the sort is stable), so that those who take turns go round.
    fn plan_running(&mut self, draft: &mut Draft) {
        let Self { running, seqs, .. } = self;
        let turn = |key: &Key| {
            let seq = &seqs[*key];
            (seq.last_step, seq.num_pending(seq.computed) > 1)
        };
        // Mostly they are in order: all were part of the step before.
        if !running.is_sorted_by_key(turn) {
            running.sort_by_cached_key(turn);
        }
        let mut turns = std::mem::take(&mut self.turns);
        turns.clone_from(&self.running);
        for &key in &turns {
            // It may have been preempted for one that went before it.
            let seq = &self.seqs[key];
            if seq.phase == Phase::Running && seq.new.entry == draft.step.entry {
                self.push(key, draft);
            }
        }
        self.turns = turns;
    }

    /// Adds as much of a sequence to the step as budgets and blocks allow.
    pub(crate) fn push(&mut self, key: Key, draft: &mut Draft) {
        let first = self.seqs[key].computed;
        let mut len = chunk_len(&self.seqs[key], first, draft.tokens_left, draft.outputs_left);
        if len == 0 {
            return;
        }
        // One that decodes needs a new block once in as many steps as a block has positions.
        if !self.covers(key, first + len) {
            let room = self.make_room(key, len, draft);
            if room < len {
                draft.starved = true;
                len = chunk_len(&self.seqs[key], first, room, draft.outputs_left);
                if len == 0 {
                    return;
                }
            }
            if !self.grow(key, first + len) {
                return;
            }
        }
        let seq = &mut self.seqs[key];
        let end = first + len;
        let Some(held) = &seq.allocation else { return };
        // Made and filled where it lies: `push` would make it on the stack and move it, which takes
        // as long as all that it is filled with.
        draft.step.seqs.extend(std::iter::once_with(|| SeqStep {
            slot: held.slot,
            tokens: InlineVec::new(),
            positions: InlineVec::new(),
            kv_start: Source::Host(first as u32),
            block_tables: InlineVec::new(),
            outputs: InlineVec::new(),
        }));
        let Some(out) = draft.step.seqs.last_mut() else { return };
        held.tables.iter().for_each(|table| out.block_tables.push(Arc::clone(table)));
        out.tokens.reserve_exact(len);
        out.positions.reserve_exact(len);
        let mut num_samples = 0;
        for index in first..end {
            out.tokens.push(seq.token(index));
            out.positions.push(Source::Host(seq.position(index)));
            if let Some(row) = seq.output_row(index, index - first) {
                num_samples += usize::from(row.sample);
                out.outputs.push(row);
                draft.flight.rows.push(row);
            }
        }
        let num_rows = out.outputs.len();
        draft.flight.parts.push(Part { key, first, len, num_rows });
        draft.tokens_left -= len;
        draft.outputs_left -= num_rows;
        seq.computed = end;
        seq.num_sampled += num_samples;
        seq.in_flight += 1;
        seq.last_step = draft.step.id;
    }

    /// Whether a sequence holds the blocks of its first `len` KV positions.
    pub(crate) fn covers(&self, key: Key, len: usize) -> bool {
        let mut tables = self.seqs[key].allocation.iter().flat_map(|held| &held.tables);
        tables.all(|table| len <= table.len() * self.config.block_len)
    }

    /// Takes the blocks that a sequence lacks for its first `len` KV positions. There is room, so
    /// this cannot fail; if it did, the sequence would sit out.
    fn grow(&mut self, key: Key, len: usize) -> bool {
        let num_blocks = self.config.blocks_for(len);
        let tables = self.seqs[key].allocation.iter_mut().flat_map(|held| &mut held.tables);
        for (pool, table) in self.pools.iter_mut().zip(tables) {
            let num_new = num_blocks.saturating_sub(table.len());
            let Some(new) = pool.alloc(num_new) else { return false };
            *table = table.iter().chain(new.iter()).copied().collect();
        }
        true
    }
}

/// How many tokens of `seq` from index `first` on are next within `max_tokens`, stopping before the
/// row that would be one output too many.
pub(crate) fn chunk_len(seq: &Sequence, first: usize, max_tokens: usize, max_outputs: usize) -> usize {
    let len = seq.num_pending(first).min(max_tokens);
    // No token has more than one row. So it is in decoding: no row is looked at.
    if len <= max_outputs {
        return len;
    }
    let mut wanted = (0..len).filter(|at| seq.output_row(first + at, *at).is_some());
    wanted.nth(max_outputs).unwrap_or(len)
}
