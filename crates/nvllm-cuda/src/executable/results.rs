//! What a step leaves for the host.

use std::sync::Arc;

use nvllm_core::host::{Batch, BatchOutput};
use nvllm_core::sampling::top_logprobs;
use nvllm_core::{Result, RowOutput, StepOutput, StepSpan, Tensor, TokenId};

use super::state::{CudaExecutable, Entry, Flight};
use crate::memory::Buffer;
use crate::row_tensor::RowTensor;
use crate::sampler::{MAX_TOP, NO_TOKEN, Scored, scored_at};

impl CudaExecutable {
    /// Allocates memory for a copy of all rows of the program's output, if the host wants one of
    /// them.
    pub(super) fn alloc_output_rows(
        &self,
        entry: usize,
        batch: &Batch,
    ) -> crate::Result<Option<Arc<Buffer>>> {
        let wanted = batch
            .outputs
            .iter()
            .any(|o| o.want.values || usize::from(o.want.top_logprobs.unwrap_or(0)) > MAX_TOP);
        let Some(output) = self.entries[entry].program.output.filter(|_| wanted) else { return Ok(None) };
        let (cols, dtype) = self.row_shape(entry, output.value());
        let len = batch.outputs.len() * cols * dtype.size();
        Ok(Some(Arc::new(Buffer::new(&self.device, len)?)))
    }

    /// Scores rows: the last launch of a step that has some.
    pub(super) fn finish(&self, entry: usize, batch: &Batch, buffers: usize) -> crate::Result<()> {
        if let Some(sampling) = self.entries[entry].sampling.as_ref().filter(|_| scores(batch)) {
            sampling.logprobs.run(&self.device, self.extents(batch))?;
        }
        self.step_buffers[buffers].complete(&self.device)
    }

    /// A finished step's output; `results` is what it left for the host.
    pub(super) fn output(
        &self,
        flight: &Flight,
        results: &[u8],
        span: Option<StepSpan>,
    ) -> Result<StepOutput> {
        let Entry { program, sampling, .. } = &self.entries[flight.entry];
        let shape = program.output.map(|output| self.row_shape(flight.entry, output.value()));
        let values = |i: usize| {
            let (rows, (cols, dtype)) = flight.rows.as_ref().zip(shape)?;
            let at = i * cols * dtype.size();
            Some(RowTensor {
                device: Arc::clone(&self.device),
                rows: Arc::clone(rows),
                at,
                shape: [cols],
                dtype,
            })
        };
        let boxed = |row: RowTensor| Box::new(row) as Box<dyn Tensor>;
        if sampling.is_none() {
            let row = |(i, output): (usize, &BatchOutput)| {
                let values = values(i).filter(|_| output.want.values).map(boxed);
                RowOutput { values, ..RowOutput::default() }
            };
            let rows = flight.batch.outputs.iter().enumerate().map(row).collect();
            return Ok(StepOutput { rows, span });
        }
        let num = flight.batch.outputs.len();
        let tokens: &[u32] = bytemuck::cast_slice(&results[..num * 4]);
        let at = scored_at(self.limits.step_outputs);
        let scored: &[Scored] = bytemuck::cast_slice(&results[at..at + num * size_of::<Scored>()]);
        let row = |(i, output): (usize, &BatchOutput)| {
            let want = &output.want;
            let row = values(i);
            let unusable =
                (want.sample && tokens[i] == NO_TOKEN) || (want.scored() && !scored[i].is_usable());
            let token = (want.sample && !unusable).then(|| TokenId(tokens[i]));
            let target = want.target.or(token).filter(|_| want.scored() && !unusable);
            let num_top = usize::from(want.top_logprobs.unwrap_or(0));
            let logprobs = match (target, &row) {
                (None, _) => None,
                (Some(target), Some(row)) if num_top > MAX_TOP => {
                    Some(top_logprobs(&row.to_host()?.to_f32(), target, num_top))
                }
                (Some(_), _) => Some(scored[i].logprobs()),
            };
            Ok(RowOutput { token, logprobs, values: row.filter(|_| want.values).map(boxed), unusable })
        };
        let rows = flight.batch.outputs.iter().enumerate().map(row);
        Ok(StepOutput { rows: rows.collect::<Result<_>>()?, span })
    }
}

/// Whether log-probabilities of some row are wanted.
fn scores(batch: &Batch) -> bool {
    batch.outputs.iter().any(|output| output.want.scored())
}
