//! What runs next.

use nvllm_core::{InlineVec, OutputRow, SeqStep, Source, Step};

use crate::Scheduler;
use crate::scheduler::{InFlight, Key, Part};
use crate::sequence::{Phase, Sequence};

/// A step in the making.
pub(crate) struct Draft {
    pub(crate) step: Step,
    pub(crate) parts: Vec<Part>,
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
        let mut draft = Draft {
            step: Step { id: self.next_step, ..Step::default() },
            parts: Vec::with_capacity(self.running.len()),
            tokens_left: self.config.step_tokens,
            outputs_left: self.config.step_outputs,
            starved: false,
        };
        draft.step.seqs.reserve(self.running.len());
        self.plan_running(&mut draft);
        self.admit(&mut draft);
        if draft.parts.is_empty() {
            return None;
        }
        self.next_step.0 += 1;
        let copied = draft.step.copies.iter().map(|copy| (copy.group, copy.from)).collect();
        self.in_flight.push_back(InFlight { id: draft.step.id, parts: draft.parts, copied });
        Some(draft.step)
    }

    /// Sequences that hold a slot, by turns: who was passed over in the step before goes first, so
    /// that budgets smaller than the number of sequences starve nobody; among equals single tokens
    /// go before chunks, which take what is left.
    ///
    /// The order is kept (the sort is stable), so that those who take turns go round.
    fn plan_running(&mut self, draft: &mut Draft) {
        let turn = |&key: &Key| {
            (self.seqs[key].last_step, self.seqs[key].num_pending(self.seqs[key].computed) > 1, key)
        };
        let mut turns: Vec<_> = self.running.iter().map(turn).collect();
        turns.sort_by_key(|&(last_step, is_chunk, _)| (last_step, is_chunk));
        self.running.clear();
        self.running.extend(turns.iter().map(|(_, _, key)| key));
        for (_, _, key) in turns {
            // It may have been preempted for one that went before it.
            if self.seqs[key].phase == Phase::Running {
                self.push(key, draft);
            }
        }
    }

    /// Adds as much of a sequence to the step as budgets and blocks allow.
    pub(crate) fn push(&mut self, key: Key, draft: &mut Draft) {
        let (mut len, mut rows) =
            chunk(&self.seqs[key], self.seqs[key].computed, draft.tokens_left, draft.outputs_left);
        if len == 0 {
            return;
        }
        let room = self.make_room(key, len, draft);
        if room < len {
            draft.starved = true;
            (len, rows) = chunk(&self.seqs[key], self.seqs[key].computed, room, draft.outputs_left);
            if len == 0 {
                return;
            }
        }
        let seq = &mut self.seqs[key];
        let (first, end) = (seq.computed, seq.computed + len);
        let num_blocks = self.config.blocks_for(end);
        let Some(held) = seq.allocation.as_mut() else { return };
        for (pool, table) in self.pools.iter_mut().zip(&mut held.tables) {
            let num_new = num_blocks.saturating_sub(table.len());
            if num_new > 0 {
                // There is room, so this cannot fail; if it did, the sequence would sit out.
                let Some(new) = pool.alloc(num_new) else { return };
                *table = table.iter().copied().chain(new).collect();
            }
        }
        let (slot, block_tables) = (held.slot, held.tables.clone());
        draft.step.seqs.push(SeqStep {
            slot,
            tokens: (first..end).map(|i| seq.token(i)).collect(),
            positions: (first..end).map(|i| Source::Host(seq.position(i))).collect(),
            kv_start: Source::Host(first as u32),
            block_tables,
            outputs: rows.clone(),
        });
        draft.tokens_left -= len;
        draft.outputs_left -= rows.len();
        seq.computed = end;
        seq.num_sampled += rows.iter().filter(|row| row.sample).count();
        seq.in_flight += 1;
        seq.last_step = draft.step.id;
        draft.parts.push(Part { key, first, len, rows });
    }
}

/// The next tokens of `seq` from index `first` on within `max_tokens`, stopping before the row that
/// would be one output too many.
pub(crate) fn chunk(
    seq: &Sequence,
    first: usize,
    max_tokens: usize,
    max_outputs: usize,
) -> (usize, InlineVec<OutputRow>) {
    let len = seq.num_pending(first).min(max_tokens);
    let mut rows = InlineVec::new();
    for at in 0..len {
        let row = seq.output_row(first + at, at);
        if row.is_some() && rows.len() == max_outputs {
            return (at, rows);
        }
        rows.extend(row);
    }
    (len, rows)
}
