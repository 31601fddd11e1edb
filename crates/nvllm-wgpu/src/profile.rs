//! Where the time of a step goes on the device: each stage runs in a pass of its own, at whose end
//! the device writes a timestamp.
//!
//! An op is timed from the end of the one before it to its own end, so what lies between two
//! passes counts with the second: a step is the sum of its ops. In many passes it is a little
//! slower than in one.

use std::ops::Range;

use nvllm_core::{EntryId, OpTime, StepId, StepProfile};
use wgpu::{
    Buffer, CommandEncoder, ComputePass, ComputePassDescriptor, ComputePassTimestampWrites,
    QUERY_SET_MAX_QUERIES, QuerySet, SubmissionIndex,
};

use crate::error::Result;
use crate::gpu::Gpu;

/// A profiled step: what the device writes is held until it has been read.
pub(crate) struct Timed {
    step: StepId,
    entry: EntryId,
    /// Of the timestamps at the start of the step and at the end of each pass.
    sets: Vec<QuerySet>,
    on_device: Buffer,
    on_host: Buffer,
    /// Nodes of each pass: none of the first, which takes in the step, and of the sampler.
    passes: Vec<Option<Range<usize>>>,
    /// The step's submission.
    index: Option<SubmissionIndex>,
}

impl Timed {
    /// For a step of so many passes.
    pub(crate) fn new(gpu: &Gpu, (step, entry): (StepId, EntryId), num_passes: usize) -> Result<Self> {
        let num = num_passes + 1;
        let set = |first: usize| gpu.query_set(QUERY_SET_MAX_QUERIES.min((num - first) as u32));
        let sets = (0..num).step_by(QUERY_SET_MAX_QUERIES as usize).map(set).collect();
        let (on_device, on_host) = (gpu.query_buffer(num * 8)?, gpu.readback(num * 8, "a profile")?);
        Ok(Self { step, entry, sets, on_device, on_host, passes: Vec::new(), index: None })
    }

    /// Runs what `record` records for `nodes` in a pass that is timed.
    pub(crate) fn pass(
        &mut self,
        encoder: &mut CommandEncoder,
        nodes: Option<Range<usize>>,
        record: impl FnOnce(&mut ComputePass<'_>),
    ) {
        let (at, size) = (self.passes.len() + 1, QUERY_SET_MAX_QUERIES as usize);
        let timestamp_writes = Some(ComputePassTimestampWrites {
            query_set: &self.sets[at / size],
            beginning_of_pass_write_index: (at == 1).then_some(0),
            end_of_pass_write_index: Some((at % size) as u32),
        });
        let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor { label: None, timestamp_writes });
        record(&mut pass);
        drop(pass);
        self.passes.push(nodes);
    }

    /// Copies the timestamps to where the host reads them.
    pub(crate) fn finish(&self, encoder: &mut CommandEncoder) {
        let num = self.passes.len() + 1;
        for (at, set) in self.sets.iter().enumerate() {
            let first = at * QUERY_SET_MAX_QUERIES as usize;
            let of_set = (num - first).min(QUERY_SET_MAX_QUERIES as usize) as u32;
            encoder.resolve_query_set(set, 0..of_set, &self.on_device, (first * 8) as u64);
        }
        encoder.copy_buffer_to_buffer(&self.on_device, 0, &self.on_host, 0, (num * 8) as u64);
    }

    /// With the submission whose end [`profile`](Self::profile) waits for.
    pub(crate) fn submitted(self, index: SubmissionIndex) -> Self {
        Self { index: Some(index), ..self }
    }

    /// The times, once the step has run: waits for it.
    pub(crate) fn profile(self, gpu: &Gpu) -> Result<StepProfile> {
        let Self { step, entry, on_host, passes, index, .. } = self;
        let Some(index) = index else { return Ok(StepProfile { step, entry, ops: Vec::new() }) };
        let len = (passes.len() + 1) * 8;
        let ticks: Vec<u64> = gpu.read(&on_host, len, index, bytemuck::pod_collect_to_vec)?;
        Ok(StepProfile { step, entry, ops: times(&ticks, gpu.seconds_per_tick(), passes) })
    }
}

/// Times of ops from the timestamps at the start of the step and at the end of each pass, of which
/// the first is no op.
fn times(ticks: &[u64], per_tick: f64, passes: Vec<Option<Range<usize>>>) -> Vec<OpTime> {
    let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 * per_tick;
    let ops = passes.into_iter().zip(ticks.windows(2)).skip(1);
    ops.map(|(nodes, pair)| OpTime {
        nodes,
        start: seconds(ticks[0], pair[0]),
        seconds: seconds(pair[0], pair[1]),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_are_timed_from_end_to_end() {
        let passes = vec![None, Some(0..1), Some(1..2), None];
        let ops = times(&[100, 110, 150, 145, 185], 0.5, passes);
        let op = |nodes, start, seconds| OpTime { nodes, start, seconds };
        // A clock that goes back makes no negative time.
        assert_eq!(ops, [op(Some(0..1), 5.0, 20.0), op(Some(1..2), 25.0, 0.0), op(None, 22.5, 20.0)]);
    }
}
