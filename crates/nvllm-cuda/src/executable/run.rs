//! The launches of a step.

use nvllm_core::host::Batch;
use nvllm_core::{HostTensor, Step, TokenMasks, ValueId};

use super::state::{CudaExecutable, Entry, Flight};
use crate::graphs::GraphKey;
use crate::launch::Extents;
use crate::lower::Stage;
use crate::memory::Buffer;
use crate::profile::Timed;

impl CudaExecutable {
    /// Puts a checked step on the stream.
    pub(super) fn start(
        &mut self,
        step: &Step,
        batch: &Batch,
        buffers: usize,
        rows: Option<&Buffer>,
    ) -> crate::Result<()> {
        self.device.bind()?;
        let extents = self.extents(batch);
        self.last = Some((step.entry.index(), extents));
        let graph = if self.profiling { None } else { self.graphs.find(step.entry.index(), extents) };
        let Extents { tokens, seqs, .. } = graph.map_or(extents, GraphKey::extents);
        let (own, state) = (&mut self.step_buffers[buffers], &self.state);
        let packed = state.inputs.layout.pack(own.staging()?, step, batch, [tokens, seqs]);
        self.input_bytes = packed.len;
        own.start(&self.device)?;
        state.kv.start_copies(&step.copies)?;
        let (bytes, results) = (own.packed_at(), own.results_at());
        state.inputs.begin(&self.device, &packed, bytes, &state.slots.states, results)?;
        state.slots.count(step, |slot| state.inputs.lists(slot), &packed.counted, bytes)?;
        match graph {
            Some(graph) => self.graphs.replay(graph)?,
            None => self.compute(step, extents)?,
        }
        let Entry { program, plan, .. } = &self.entries[step.entry.index()];
        if let (Some(rows), Some(output)) = (rows, program.output) {
            rows.copy(0, &self.state.arena, plan.place(output.value()).offset, rows.len())?;
        }
        if step.awaits_masks() { Ok(()) } else { self.finish(step.entry.index(), batch, buffers) }
    }

    /// The forward pass, and the sampler of rows that await no mask, kernel by kernel.
    pub(super) fn compute(&mut self, step: &Step, extents: Extents) -> crate::Result<()> {
        let (device, begin, entry) = (&*self.device, &self.begin, &self.entries[step.entry.index()]);
        if self.profiling {
            let stages = entry.schedule.stages(extents);
            let stages = stages.map(|stage| (Some(stage.nodes.clone()), &*stage.launches));
            let sampler = entry.sampling.iter().map(|sampling| (None, &*sampling.plain));
            let stages: Vec<_> = stages.chain(sampler).collect();
            self.timed.push(Timed::run(device, (step.id, step.entry), extents, begin, &stages)?);
            return Ok(());
        }
        self.launch_all(step.entry.index(), extents)
    }

    /// Every launch of a step of these extents.
    pub(super) fn launch_all(&self, entry: usize, at: Extents) -> crate::Result<()> {
        self.launch_stages(entry, at, true)?;
        let mut sampling = self.entries[entry].sampling.iter().flat_map(|sampling| &sampling.plain);
        sampling.try_for_each(|launch| launch.run(&self.device, at))
    }

    /// The forward pass, as a decode pass only if `pass` says so.
    pub(super) fn launch_stages(&self, entry: usize, at: Extents, pass: bool) -> crate::Result<()> {
        let schedule = &self.entries[entry].schedule;
        let stages: &mut dyn Iterator<Item = &Stage> =
            if pass { &mut schedule.stages(at) } else { &mut schedule.one_by_one(at) };
        let mut all = self.begin.iter().chain(stages.flat_map(|stage| &stage.launches));
        all.try_for_each(|launch| launch.run(&self.device, at))
    }

    /// The sampler of rows whose masks have come.
    pub(super) fn launch_masked(&self, entry: usize, at: Extents) -> crate::Result<()> {
        let sampling = self.entries[entry].sampling.iter().flat_map(|sampling| &sampling.masked);
        sampling.into_iter().try_for_each(|launch| launch.run(&self.device, at))
    }

    pub(super) fn sample_masked(&mut self, flight: &Flight, masks: &TokenMasks) -> crate::Result<()> {
        self.device.bind()?;
        self.state.sampler.upload_masks(&self.device, masks, &flight.batch)?;
        let extents = self.extents(&flight.batch);
        match self.graphs.find_masked_sampler(flight.entry, extents) {
            Some(graph) => self.graphs.replay(graph)?,
            None => self.launch_masked(flight.entry, extents)?,
        }
        self.state.sampler.masks_are_read(&self.device)?;
        self.finish(flight.entry, &flight.batch, flight.buffers)
    }

    /// Runs a step op by op, and reads what each made.
    pub(super) fn run_checked(&mut self, step: &Step, batch: &Batch) -> crate::Result<Option<String>> {
        self.device.bind()?;
        self.device.synchronize()?;
        let extents = self.extents(batch);
        self.last = Some((step.entry.index(), extents));
        // The next buffers are free: fewer steps are in flight than there are buffers.
        let (own, state) = (&mut self.step_buffers[self.next_buffers], &self.state);
        let packed = state.inputs.layout.pack(own.staging()?, step, batch, [extents.tokens, extents.seqs]);
        let (bytes, results) = (own.packed_at(), own.results_at());
        state.inputs.begin(&self.device, &packed, bytes, &state.slots.states, results)?;
        // Nothing else of this step needs the buffers.
        own.complete(&self.device)?;
        let entry = &self.entries[step.entry.index()];
        self.begin.iter().try_for_each(|launch| launch.run(&self.device, extents))?;
        for stage in entry.schedule.stages(extents) {
            stage.launches.iter().try_for_each(|launch| launch.run(&self.device, extents))?;
            // What the nodes of a stage hand to each other is nowhere in memory.
            let Some(at) = stage.nodes.clone().last() else { continue };
            for id in entry.program.number_outputs(at) {
                if !self.read_value(entry, id, extents)?.is_finite() {
                    return Ok(Some(entry.program.line(&entry.program.nodes[at])));
                }
            }
        }
        Ok(None)
    }

    /// A value as the last launches left it.
    pub(super) fn read_value(
        &self,
        entry: &Entry,
        id: ValueId,
        extents: Extents,
    ) -> crate::Result<HostTensor> {
        let value = entry.program.value(id);
        let (dtype, rows) = (value.kind.dtype(&self.limits), extents.rows(value.rows));
        let mut bytes = vec![0; rows * value.cols * dtype.size()];
        self.state.arena.read(&self.device.stream, entry.plan.place(id).offset, &mut bytes)?;
        Ok(HostTensor::from_bytes([rows, value.cols], dtype, bytes))
    }
}
