//! A step with everything known: flat tokens, positions, KV indices, and where each row belongs.

use std::sync::Arc;

use super::{SlotState, Slots};
use crate::program::Counts;
use crate::sampling::takes_largest;
use crate::{
    BlockId, CoreError, InlineVec, KvGeometry, Limits, OutputRow, Result, SlotId, Source, Step, StepId,
    TokenId, TokenMasks,
};

/// One sequence of a batch.
#[derive(Clone, Debug)]
pub struct BatchSeq {
    /// Its slot.
    pub slot: SlotId,
    /// Row of its first new token.
    pub first_row: usize,
    /// New tokens.
    pub num_rows: usize,
    /// KV index of its first new token.
    pub kv_start: usize,
    /// One block table per KV group.
    pub block_tables: InlineVec<Arc<[BlockId]>>,
}

impl BatchSeq {
    /// Block and offset within it of a KV index.
    pub fn locate(&self, group: usize, kv_index: usize, block_len: usize) -> (BlockId, usize) {
        (self.block_tables[group][kv_index / block_len], kv_index % block_len)
    }
}

/// One output row of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchOutput {
    /// Its sequence, as an index into [`Batch::seqs`].
    pub seq: usize,
    /// Its row over all tokens.
    pub row: usize,
    /// Index in its sequence of the token that this row predicts.
    pub next_index: u32,
    /// What is wanted.
    pub want: OutputRow,
    /// Whether that is the token of the largest logit, and nothing else of the row.
    pub largest_only: bool,
}

/// A step resolved on the host.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token of each row.
    pub tokens: Vec<TokenId>,
    /// Position id of each row.
    pub positions: Vec<u32>,
    /// The sequences.
    pub seqs: Vec<BatchSeq>,
    /// The output rows, in step order.
    pub outputs: Vec<BatchOutput>,
}

impl Batch {
    /// Resolves `step` against `slots` and checks it against everything that kernels rely on.
    pub fn new(
        step: &Step,
        slots: &Slots,
        limits: &Limits,
        kv: &[KvGeometry],
        vocab_size: usize,
    ) -> Result<Self> {
        Self::resolve(step, slots, limits, kv, vocab_size)
            .map_err(|problem| CoreError::step(step.id, problem))
    }

    fn resolve(
        step: &Step,
        slots: &Slots,
        limits: &Limits,
        kv: &[KvGeometry],
        vocab_size: usize,
    ) -> Result<Self, String> {
        let extents = [
            ("tokens", step.num_tokens(), limits.step_tokens),
            ("outputs", step.num_outputs(), limits.step_outputs),
            ("sequences", step.seqs.len(), limits.seqs),
        ];
        if let Some((what, n, limit)) = extents.into_iter().find(|(_, n, limit)| n > limit) {
            return Err(format!("has {n} {what}; the model was loaded for {limit}"));
        }
        step.check_copies(kv)?;
        let mut batch =
            Self { tokens: Vec::new(), positions: Vec::new(), seqs: Vec::new(), outputs: Vec::new() };
        let mut taken = vec![false; slots.num_used()];
        for seq in &step.seqs {
            let Some(state) = slots.get(seq.slot) else {
                return Err(format!("names slot {}, which no sequence holds", seq.slot));
            };
            if std::mem::replace(&mut taken[seq.slot.index()], true) {
                return Err(format!("names slot {} twice", seq.slot));
            }
            if seq.positions.len() != seq.tokens.len() {
                let (positions, tokens) = (seq.positions.len(), seq.tokens.len());
                return Err(format!(
                    "has {positions} positions for the {tokens} tokens of slot {}",
                    seq.slot
                ));
            }
            batch.push_seq(seq, state);
            let last = batch.seqs.last().expect("just pushed");
            check_seq(last, &seq.outputs, limits, kv)?;
        }
        if let Some(token) = batch.tokens.iter().find(|t| t.index() >= vocab_size) {
            return Err(format!("holds token {token}; the vocabulary has {vocab_size}"));
        }
        Ok(batch)
    }

    fn push_seq(&mut self, seq: &crate::SeqStep, state: &SlotState) {
        let &SlotState { last_token, kv_len, next_position, ref sampling, ref counts } = state;
        let (first_row, index) = (self.tokens.len(), self.seqs.len());
        let kv_start = resolve(seq.kv_start, kv_len) as usize;
        self.tokens.extend(seq.tokens.iter().map(|&t| resolve(t, last_token)));
        // Positions from the slot count up from its next one.
        self.positions.extend(seq.positions.iter().zip(0..).map(|(&p, i)| resolve(p, next_position + i)));
        self.outputs.extend(seq.outputs.iter().map(|&want| BatchOutput {
            seq: index,
            row: first_row + want.index as usize,
            next_index: (kv_start as u32) + want.index + 1,
            want,
            largest_only: want == OutputRow::sample(want.index) && takes_largest(sampling, counts),
        }));
        self.seqs.push(BatchSeq {
            slot: seq.slot,
            first_row,
            num_rows: seq.tokens.len(),
            kv_start,
            block_tables: seq.block_tables.clone(),
        });
    }

    /// Errors if `masks` has one for a row that awaits none.
    pub fn check_masks(&self, step: StepId, masks: &TokenMasks) -> Result<()> {
        let awaits = |row: usize| self.outputs.get(row).is_some_and(|output| output.want.awaits_mask);
        match masks.rows.iter().find(|(row, _)| !awaits(*row)) {
            None => Ok(()),
            Some((row, _)) => {
                Err(CoreError::step(step, format!("has no output row {row} that awaits a mask")))
            }
        }
    }

    /// The extents, for cost accounting.
    pub fn counts(&self) -> Counts {
        let positions = |s: &BatchSeq| s.kv_start + s.num_rows;
        let pairs = |s: &BatchSeq| s.num_rows * s.kv_start + s.num_rows * (s.num_rows + 1) / 2;
        Counts {
            tokens: self.tokens.len(),
            outputs: self.outputs.len(),
            seqs: self.seqs.len(),
            kv_positions: self.seqs.iter().map(positions).sum(),
            kv_pairs: self.seqs.iter().map(pairs).sum(),
        }
    }
}

impl Slots {
    /// Advances lengths and positions past a batch whose forward pass has run.
    pub fn advance(&mut self, batch: &Batch) {
        for seq in &batch.seqs {
            let state = self.get_mut(seq.slot).expect("the batch was resolved against these slots");
            state.kv_len = (seq.kv_start + seq.num_rows) as u32;
            state.next_position = batch.positions[seq.first_row + seq.num_rows - 1] + 1;
        }
    }
}

fn resolve<T>(source: Source<T>, slot: T) -> T {
    match source {
        Source::Host(value) => value,
        Source::Slot => slot,
    }
}

fn check_seq(
    seq: &BatchSeq,
    outputs: &[OutputRow],
    limits: &Limits,
    kv: &[KvGeometry],
) -> Result<(), String> {
    let slot = seq.slot;
    let end = seq.kv_start + seq.num_rows;
    if seq.num_rows == 0 {
        return Err(format!("has no tokens for slot {slot}"));
    }
    if end > limits.context {
        return Err(format!(
            "brings slot {slot} to {end} tokens; the model was loaded for {}",
            limits.context
        ));
    }
    if seq.block_tables.len() != kv.len() {
        return Err(format!(
            "has {} block tables for slot {slot}; {} are needed",
            seq.block_tables.len(),
            kv.len()
        ));
    }
    for (table, geometry) in seq.block_tables.iter().zip(kv) {
        let covered = table.len() * geometry.block_len;
        if covered < end {
            return Err(format!("covers {covered} KV positions of slot {slot}; {end} are needed"));
        }
        let used = &table[..end.div_ceil(geometry.block_len)];
        let unseen = geometry.num_unseen(seq.kv_start);
        let is_block = |(at, block): (usize, BlockId)| {
            if block == BlockId::NULL { at < unseen } else { block.index() < geometry.num_blocks }
        };
        if let Some((_, block)) = used.iter().copied().enumerate().find(|&entry| !is_block(entry)) {
            return Err(format!(
                "maps slot {slot} to block {block}; blocks 1 to {} exist",
                geometry.num_blocks - 1
            ));
        }
    }
    let ascending = outputs.windows(2).all(|pair| pair[0].index < pair[1].index);
    if !ascending || outputs.last().is_some_and(|o| o.index as usize >= seq.num_rows) {
        return Err(format!(
            "wants rows of slot {slot} that are out of order or beyond its {} tokens",
            seq.num_rows
        ));
    }
    Ok(())
}
