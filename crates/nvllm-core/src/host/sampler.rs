//! The sampler of host backends: [`sampling`](crate::sampling) applied to the rows of a batch.

use super::{Batch, Slots};
use crate::sampling::{sample, top_logprobs};
use crate::{DType, HostTensor, RowOutput, StepOutput, Tensor, TokenMasks};

/// Draws, scores and returns what each output row of `batch` wants from `logits` `[outputs, vocab]`, and records drawn
/// tokens in `slots`.
pub fn sample_rows(
    logits: &[f32],
    vocab_size: usize,
    batch: &Batch,
    masks: &TokenMasks,
    slots: &mut Slots,
) -> StepOutput {
    let rows = batch.outputs.iter().zip(logits.chunks(vocab_size)).enumerate();
    let rows = rows.map(|(i, (output, row))| {
        let (slot, want) = (batch.seqs[output.seq].slot, &output.want);
        let mask = masks.rows.iter().find(|(at, _)| *at == i).map(|(_, words)| words.as_slice());
        let token = want.sample.then(|| {
            let state = slots.get(slot).expect("the batch was resolved against these slots");
            sample(row, &state.sampling, &state.counts, output.next_index, mask).token
        });
        if let Some(token) = token {
            slots.sampled(slot, token);
        }
        let scored = want.target.or(token.filter(|_| want.top_logprobs.is_some()));
        let num = want.top_logprobs.unwrap_or(0) as usize;
        let logits = || Box::new(HostTensor::from_f32([vocab_size], DType::F32, row)) as Box<dyn Tensor>;
        RowOutput {
            token,
            logprobs: scored.map(|target| top_logprobs(row, target, num)),
            logits: want.logits.then(logits),
        }
    });
    StepOutput { rows: rows.collect() }
}
