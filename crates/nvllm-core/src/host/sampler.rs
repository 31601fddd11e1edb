//! The sampler of host backends: [`sampling`](crate::sampling) applied to one row of a batch.

use super::{Batch, Slots};
use crate::sampling::{is_usable, sample, top_logprobs};
use crate::{DType, HostTensor, RowOutput};

/// Draws, scores and returns what output row `index` of `batch` wants from its `logits` `[vocab]`,
/// and records a drawn token in `slots`.
pub fn sample_row(
    logits: &[f32],
    batch: &Batch,
    index: usize,
    mask: Option<&[u32]>,
    slots: &mut Slots,
) -> RowOutput {
    let output = &batch.outputs[index];
    let (slot, want) = (batch.seqs[output.seq].slot, &output.want);
    let unusable = (want.sample || want.scored()) && !is_usable(logits);
    let token = (want.sample && !unusable).then(|| {
        let state = slots.get(slot).expect("the batch was resolved against these slots");
        sample(logits, &state.sampling, &state.counts, output.next_index, mask).token
    });
    if let Some(token) = token {
        slots.sampled(slot, token);
    }
    let scored = want.target.or(token).filter(|_| want.scored() && !unusable);
    let num = want.top_logprobs.unwrap_or(0) as usize;
    RowOutput {
        token,
        logprobs: scored.map(|target| top_logprobs(logits, target, num)),
        values: want
            .values
            .then(|| Box::new(HostTensor::from_f32([logits.len()], DType::F32, logits)) as Box<_>),
        unusable,
    }
}
