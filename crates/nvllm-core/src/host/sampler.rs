//! The sampler of host backends: [`sampling`](crate::sampling) applied to the rows of a batch.

use super::{Batch, Slots};
use crate::sampling::{sample, top_logprobs};
use crate::{DType, HostTensor, StepOutput, Tensor, TokenMasks};

/// Draws, scores and returns what each output row of `batch` wants from `logits` `[outputs, vocab]`, and records drawn
/// tokens in `slots`.
pub fn sample_rows(
    logits: &[f32],
    vocab_size: usize,
    batch: &Batch,
    masks: &TokenMasks,
    slots: &mut Slots,
) -> StepOutput {
    let mut out = StepOutput::default();
    for (i, (output, row)) in batch.outputs.iter().zip(logits.chunks(vocab_size)).enumerate() {
        let slot = batch.seqs[output.seq].slot;
        let mask = masks.rows.iter().find(|(at, _)| *at == i).map(|(_, words)| words.as_slice());
        let token = output.want.sample.then(|| {
            let state = slots.get(slot).expect("the batch was resolved against these slots");
            sample(row, &state.sampling, &state.counts, output.next_index, mask).token
        });
        if let Some(token) = token {
            slots.sampled(slot, token);
        }
        let scored = output.want.target.or(token.filter(|_| output.want.top_logprobs.is_some()));
        let num = output.want.top_logprobs.unwrap_or(0) as usize;
        let logprobs = scored.map(|t| top_logprobs(row, t, num));
        out.tokens.push(token);
        out.logprobs.push(logprobs);
        out.rows.push(
            output
                .want
                .logits
                .then(|| Box::new(HostTensor::from_f32([vocab_size], DType::F32, row)) as Box<dyn Tensor>),
        );
    }
    out
}
