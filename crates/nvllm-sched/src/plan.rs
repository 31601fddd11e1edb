//! What runs next.

use std::sync::Arc;

use nvllm_core::{OutputRow, SeqId, SeqStep, SlotReset, Source, Step};

use crate::scheduler::{InFlight, Part};
use crate::sequence::{Held, Sequence};
use crate::{Admitted, Scheduler};

/// A step in the making.
struct Draft {
    step: Step,
    parts: Vec<Part>,
    tokens_left: usize,
    outputs_left: usize,
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
            parts: Vec::new(),
            tokens_left: self.config.step_tokens,
            outputs_left: self.config.step_outputs,
        };
        self.plan_running(&mut draft);
        self.admit(&mut draft);
        if draft.parts.is_empty() {
            return None;
        }
        self.next_step.0 += 1;
        self.in_flight.push_back(InFlight { id: draft.step.id, parts: draft.parts });
        Some(draft.step)
    }

    /// The sequences that the last call of [`plan`](Self::plan) gave a slot.
    pub fn admitted(&self) -> &[Admitted] {
        &self.admitted
    }

    /// Sequences that hold a slot, by turns: who was passed over in the step before goes first, so
    /// that budgets smaller than the number of sequences starve nobody; among equals single tokens
    /// go before chunks, which take what is left.
    ///
    /// The order is kept (the sort is stable), so that those who take turns go round.
    fn plan_running(&mut self, draft: &mut Draft) {
        let seqs = &self.seqs;
        self.running.sort_by_key(|id| seqs.get(id).map(|seq| (seq.last_step, seq.num_pending() > 1)));
        for id in self.running.clone() {
            self.push(id, draft);
        }
    }

    /// Waiting sequences, while there is a slot, and blocks for all that they may become.
    fn admit(&mut self, draft: &mut Draft) {
        let unpromised = |group: usize| self.pools[group].num_free().saturating_sub(self.promised(group));
        let mut unpromised: Vec<usize> = (0..self.pools.len()).map(unpromised).collect();
        while let Some(&(priority, id)) = self.waiting.first() {
            let (Some(&slot), Some(seq)) = (self.free_slots.first(), self.seqs.get_mut(&id)) else { return };
            let needed = self.config.blocks_for(seq.max_kv_len());
            let room = unpromised.iter().all(|n| *n >= needed);
            if !room || chunk(seq, draft.tokens_left, draft.outputs_left).0 == 0 {
                return;
            }
            unpromised.iter_mut().for_each(|n| *n -= needed);
            seq.held = Some(Held { slot, tables: vec![Arc::default(); self.pools.len()] });
            draft.step.resets.push(SlotReset {
                slot,
                prompt: Arc::clone(&seq.new.prompt),
                output: seq.output.as_slice().into(),
                sampling: Arc::clone(&seq.new.sampling),
            });
            self.waiting.remove(&(priority, id));
            self.free_slots.remove(&slot);
            self.running.push(id);
            self.admitted.push(Admitted { seq: id, cached_tokens: 0 });
            self.push(id, draft);
        }
    }

    /// Adds as much of a sequence to the step as budgets allow.
    fn push(&mut self, id: SeqId, draft: &mut Draft) {
        let Some(seq) = self.seqs.get_mut(&id) else { return };
        let (len, rows) = chunk(seq, draft.tokens_left, draft.outputs_left);
        let Some(held) = seq.held.as_mut().filter(|_| len > 0) else { return };
        let (first, end) = (seq.computed, seq.computed + len);
        let num_blocks = self.config.blocks_for(end);
        for (pool, table) in self.pools.iter_mut().zip(&mut held.tables) {
            let num_new = num_blocks.saturating_sub(table.len());
            if num_new == 0 {
                continue;
            }
            // Admission promised these blocks, so this cannot fail; if it did, the sequence would
            // sit out the step.
            let Some(new) = pool.alloc(num_new) else { return };
            *table = table.iter().copied().chain(new).collect();
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
        draft.parts.push(Part { seq: id, first, len, rows });
    }
}

/// The next tokens of `seq` within `max_tokens`, stopping before the row that would be one output
/// too many.
fn chunk(seq: &Sequence, max_tokens: usize, max_outputs: usize) -> (usize, Vec<OutputRow>) {
    let len = seq.num_pending().min(max_tokens);
    let mut rows = Vec::new();
    for at in 0..len {
        let row = seq.output_row(seq.computed + at, at);
        if row.is_some() && rows.len() == max_outputs {
            return (at, rows);
        }
        rows.extend(row);
    }
    (len, rows)
}
