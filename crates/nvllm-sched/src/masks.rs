//! Rows that are sampled under a mask, which whoever drives the scheduler makes.

use nvllm_core::{SeqId, StepId, TokenId};

use crate::Scheduler;

/// An output row of a step in flight that awaits its mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskedRow<'a> {
    /// Which one, counted over the step's output rows.
    pub row: usize,
    /// Its sequence.
    pub seq: SeqId,
    /// What the sequence has sampled in steps that are committed: all that comes before the row's
    /// token once every earlier step is.
    pub output: &'a [TokenId],
}

impl Scheduler {
    /// The rows of a step in flight that await a mask, ascending. Those of sequences that have
    /// ended since are left out: their tokens are discarded, whatever they are.
    pub fn masked_rows(&self, step: StepId) -> impl Iterator<Item = MaskedRow<'_>> {
        let flight = self.in_flight.iter().find(|flight| flight.id == step);
        let keys = flight.into_iter().flat_map(|flight| &flight.parts);
        let keys = keys.flat_map(|part| std::iter::repeat_n(part.key, part.num_rows));
        let rows = flight.into_iter().flat_map(|flight| &flight.rows);
        keys.zip(rows).enumerate().filter_map(|(row, (key, want))| {
            let seq = &self.seqs[key];
            let awaits = want.awaits_mask && !seq.is_finished();
            awaits.then_some(MaskedRow { row, seq: seq.id, output: &seq.output })
        })
    }
}
