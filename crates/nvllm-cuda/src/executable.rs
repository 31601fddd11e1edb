//! A loaded model: steps in, results out, with several steps on the device at once.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use nvllm_core::device::StepCheck;
use nvllm_core::host::{Batch, BatchOutput, Slots};
use nvllm_core::program::{Counts, MemoryPlan};
use nvllm_core::sampling::top_logprobs;
use nvllm_core::{
    CoreError, DType, EntryId, Executable, HostTensor, KvCache, KvGeometry, Limits, MemoryReport, Program,
    RequestLimits, Result, RowOutput, Stage, Step, StepOutput, StepProfile, StepSpan, Tensor, Ticket,
    TokenId, TokenMasks, ValueId,
};

use crate::device::Device;
use crate::graphs::{GraphKey, Graphs, Part, capture};
use crate::inputs::Inputs;
use crate::kv::CudaKv;
use crate::launch::{Extents, Launch};
use crate::lower::{self, Schedule};
use crate::memory::Buffer;
use crate::modules::Modules;
use crate::profile::Timed;
use crate::rope::RopeTables;
use crate::row_tensor::RowTensor;
use crate::sampler::{MAX_TOP, NO_TOKEN, Sampler, Sampling, Scored, scored_at};
use crate::slots::{self, DeviceSlots};
use crate::step_buffers::StepBuffers;
use crate::step_clock::StepClock;
use crate::weights::Weights;
use crate::work_lists::{CHUNK, WorkLists};

/// One entry program, lowered.
pub(crate) struct Entry {
    pub program: Program,
    pub plan: MemoryPlan,
    pub schedule: Schedule,
    /// Memory of the stage that is a whole pass.
    pub pass: Buffer,
    /// What samples the program's logits, if it makes some.
    pub sampling: Option<Sampling>,
}

/// What a loaded model has on the device, its launches, graphs and the buffers of steps in flight
/// aside.
pub(crate) struct DeviceState {
    pub arena: Buffer,
    pub weights: Weights,
    pub kv: CudaKv,
    pub inputs: Inputs,
    pub slots: DeviceSlots,
    pub sampler: Sampler,
    pub ropes: RopeTables,
    pub lists: WorkLists,
    /// Partial sums of linear layers.
    pub partial: Buffer,
    /// Kernels stay loaded as long as something may launch them.
    pub modules: Rc<Modules>,
}

/// A submitted step.
struct Flight {
    ticket: u64,
    /// Index into `step_buffers`.
    buffers: usize,
    entry: usize,
    batch: Batch,
    /// Copies of all rows of the program's output, if one is wanted on the host.
    rows: Option<Arc<Buffer>>,
    awaits_masks: bool,
}

/// An [`Executable`] on a CUDA device.
pub struct CudaExecutable {
    pub(crate) device: Arc<Device>,
    limits: Limits,
    vocab_size: usize,
    geometries: Vec<KvGeometry>,
    pub(crate) entries: Vec<Entry>,
    /// What every step does first.
    begin: Vec<Launch>,
    graphs: Graphs,
    state: DeviceState,
    step_buffers: Vec<StepBuffers>,
    /// What times steps, if the driver can.
    clock: Option<StepClock>,
    /// Lengths and positions, which the host knows; tokens are the device's.
    slots: Slots,
    flights: VecDeque<Flight>,
    next_buffers: usize,
    /// Bytes of inputs that the last step uploaded.
    input_bytes: usize,
    /// Entry and extents of the last step, for kept values.
    pub(crate) last: Option<(usize, Extents)>,
    /// Set by the first error of the device; every later call returns it.
    failed: Option<String>,
    profiling: bool,
    timed: Vec<Timed>,
}

/// What [`CudaExecutable::new`] is made from.
pub(crate) struct Parts {
    pub device: Arc<Device>,
    pub limits: Limits,
    pub vocab_size: usize,
    pub geometries: Vec<KvGeometry>,
    pub entries: Vec<Entry>,
    pub begin: Vec<Launch>,
    pub graphs: Graphs,
    pub state: DeviceState,
    pub step_buffers: Vec<StepBuffers>,
    pub clock: Option<StepClock>,
}

impl CudaExecutable {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            device,
            limits,
            vocab_size,
            geometries,
            entries,
            begin,
            graphs,
            state,
            step_buffers,
            clock,
        } = parts;
        Self {
            device,
            slots: Slots::new(limits.seqs),
            limits,
            vocab_size,
            geometries,
            entries,
            begin,
            graphs,
            state,
            step_buffers,
            clock,
            flights: VecDeque::new(),
            next_buffers: 0,
            input_bytes: 0,
            last: None,
            failed: None,
            profiling: false,
            timed: Vec::new(),
        }
    }

    /// Refuses steps that cannot be, before anything has changed.
    fn check(&self, step: &Step) -> Result<()> {
        self.alive()?;
        let check = StepCheck {
            limits: &self.limits,
            request_limits: slots::REQUEST_LIMITS,
            vocab_size: self.vocab_size,
            num_entries: self.entries.len(),
        };
        let in_flight = self.flights.iter().map(|flight| (flight.ticket, flight.awaits_masks));
        let program = self.entries.get(step.entry.index()).map(|entry| &entry.program);
        check.check(step, in_flight, program)
    }

    /// Errors once the device has failed.
    fn alive(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(problem) => Err(CoreError::Device {
                backend: "cuda".into(),
                problem: format!("the device failed before: {problem}; load the model again"),
            }),
        }
    }

    /// Remembers a failure of the device: what is on it can no longer be relied on.
    fn guard<T>(&mut self, result: crate::Result<T>) -> Result<T> {
        result.map_err(|error| {
            self.failed.get_or_insert_with(|| error.to_string());
            error.into()
        })
    }

    /// What a step's launches are sized for.
    fn extents(&self, batch: &Batch) -> Extents {
        Extents {
            tokens: batch.tokens.len(),
            outputs: batch.outputs.len(),
            seqs: batch.seqs.len(),
            prefill: self.state.lists.prefill(batch),
            chunks: WorkLists::chunks(batch),
        }
    }

    /// Puts a checked step on the stream.
    fn start(
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
        let (own, inputs) = (&mut self.step_buffers[buffers], &self.state.inputs);
        let packed = inputs.layout.pack(own.staging()?, step, batch, [tokens, seqs]);
        self.input_bytes = packed.len;
        let arrived = own.upload(&self.device, packed.len)?;
        self.state.kv.start_copies(&step.copies)?;
        inputs.spread(&self.device, &packed, arrived)?;
        self.state.slots.count(step, |slot| inputs.lists(slot), &packed.counted, arrived)?;
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
    fn compute(&mut self, step: &Step, extents: Extents) -> crate::Result<()> {
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
    fn launch_all(&self, entry: usize, at: Extents) -> crate::Result<()> {
        let Entry { schedule, sampling, .. } = &self.entries[entry];
        let stages = schedule.stages(at).flat_map(|stage| &stage.launches);
        let sampling = sampling.iter().flat_map(|sampling| &sampling.plain);
        let mut all = self.begin.iter().chain(stages).chain(sampling);
        all.try_for_each(|launch| launch.run(&self.device, at))
    }

    /// Runs a step op by op, and reads what each made.
    fn run_checked(&mut self, step: &Step, batch: &Batch) -> crate::Result<Option<String>> {
        self.device.bind()?;
        self.device.synchronize()?;
        let extents = self.extents(batch);
        self.last = Some((step.entry.index(), extents));
        // The next buffers are free: fewer steps are in flight than there are buffers.
        let (own, inputs) = (&mut self.step_buffers[self.next_buffers], &self.state.inputs);
        let packed = inputs.layout.pack(own.staging()?, step, batch, [extents.tokens, extents.seqs]);
        let arrived = own.upload(&self.device, packed.len)?;
        inputs.spread(&self.device, &packed, arrived)?;
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
    fn read_value(&self, entry: &Entry, id: ValueId, extents: Extents) -> crate::Result<HostTensor> {
        let value = entry.program.value(id);
        let (dtype, rows) = (value.kind.dtype(&self.limits), extents.rows(value.rows));
        let mut bytes = vec![0; rows * value.cols * dtype.size()];
        self.state.arena.read(&self.device.stream, entry.plan.place(id).offset, &mut bytes)?;
        Ok(HostTensor::from_bytes([rows, value.cols], dtype, bytes))
    }

    /// Allocates memory for a copy of all rows of the program's output, if the host wants one of
    /// them.
    fn alloc_output_rows(&self, entry: usize, batch: &Batch) -> crate::Result<Option<Arc<Buffer>>> {
        let wanted = batch
            .outputs
            .iter()
            .any(|o| o.want.values || usize::from(o.want.top_logprobs.unwrap_or(0)) > MAX_TOP);
        let Some(output) = self.entries[entry].program.output.filter(|_| wanted) else { return Ok(None) };
        let (cols, dtype) = self.row_shape(entry, output.value());
        let len = batch.outputs.len() * cols * dtype.size();
        Ok(Some(Arc::new(Buffer::new(&self.device, len)?)))
    }

    /// Columns and dtype of a value.
    fn row_shape(&self, entry: usize, value: ValueId) -> (usize, DType) {
        let value = self.entries[entry].program.value(value);
        (value.cols, value.kind.dtype(&self.limits))
    }

    /// Which bytes of the results a step leaves for the host: its tokens, then its scored rows if
    /// there are any.
    fn results(&self, entry: usize, batch: &Batch) -> Vec<Range<usize>> {
        let num = batch.outputs.len();
        if num == 0 || self.entries[entry].sampling.is_none() {
            return Vec::new();
        }
        let at = scored_at(self.limits.step_outputs);
        let (tokens, rows) = (0..num * 4, at..at + num * size_of::<Scored>());
        if scores(batch) { vec![tokens, rows] } else { vec![tokens] }
    }

    /// Scores rows and copies the results to where the next step does not write them.
    fn finish(&self, entry: usize, batch: &Batch, buffers: usize) -> crate::Result<()> {
        if let Some(sampling) = self.entries[entry].sampling.as_ref().filter(|_| scores(batch)) {
            sampling.logprobs.run(&self.device, self.extents(batch))?;
        }
        self.step_buffers[buffers].stage_results(
            &self.device,
            &self.results(entry, batch),
            &self.state.sampler.results,
        )
    }

    /// A finished step's output, from its buffers.
    fn output(&self, flight: &Flight, span: Option<StepSpan>) -> Result<StepOutput> {
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
        let results = self.step_buffers[flight.buffers].results_on_host();
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

impl Executable for CudaExecutable {
    fn submit(&mut self, step: &Step) -> Result<Ticket> {
        self.check(step)?;
        let replaced = self.slots.reset(step, self.vocab_size)?;
        let batch = match Batch::new(step, &self.slots, &self.limits, &self.geometries, self.vocab_size) {
            Ok(batch) => batch,
            Err(error) => {
                self.slots.restore(replaced);
                return Err(error);
            }
        };
        // Before anything is on the stream: what does not fit fails the step and not the model.
        let rows = match self.alloc_output_rows(step.entry.index(), &batch) {
            Ok(rows) => rows,
            Err(error) => {
                self.slots.restore(replaced);
                return Err(error.into());
            }
        };
        let buffers = self.next_buffers;
        let started = self.start(step, &batch, buffers, rows.as_deref());
        self.guard(started)?;
        self.slots.advance(&batch);
        self.next_buffers = (buffers + 1) % self.step_buffers.len();
        let (entry, awaits_masks) = (step.entry.index(), step.awaits_masks());
        self.flights.push_back(Flight { ticket: step.id.0, buffers, entry, batch, rows, awaits_masks });
        Ok(Ticket(step.id))
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        self.alive()?;
        let waiting = self.flights.iter().position(|f| f.ticket == ticket.0.0 && f.awaits_masks);
        let Some(at) = waiting else { return Err(CoreError::step(ticket.0, "does not await masks")) };
        self.flights[at].batch.check_masks(ticket.0, &masks)?;
        // Taken out and put back, so that the executable can be borrowed as a whole.
        let Some(mut flight) = self.flights.remove(at) else { return Ok(()) };
        flight.awaits_masks = false;
        let sampled = self.sample_masked(&flight, &masks);
        self.flights.insert(at, flight);
        self.guard(sampled)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput> {
        let Some(flight) = self.flights.front().filter(|flight| flight.ticket == ticket.0.0) else {
            return Err(CoreError::step(ticket.0, "is not the oldest step in flight"));
        };
        if flight.awaits_masks {
            return Err(CoreError::step(ticket.0, "still awaits its masks"));
        }
        let Some(flight) = self.flights.pop_front() else { unreachable!("it was just looked at") };
        self.alive()?;
        let results = self.results(flight.entry, &flight.batch);
        let downloaded = self.step_buffers[flight.buffers].download_results(&self.device, &results);
        self.guard(downloaded)?;
        let span = self.clock.as_mut().map(|clock| self.step_buffers[flight.buffers].span(clock)).transpose();
        let span = self.guard(span)?;
        self.output(&flight, span)
    }

    fn program(&self, entry: EntryId) -> Option<&Program> {
        self.entries.get(entry.index()).map(|entry| &entry.program)
    }

    fn schedule(&self, entry: EntryId, counts: &Counts) -> Vec<Stage> {
        let extents = extents_of(counts);
        let Some(entry) = self.entries.get(entry.index()) else { return Vec::new() };
        let stage = |stage: &lower::Stage| Stage {
            nodes: stage.nodes.clone(),
            orders: stage.orders.clone(),
            launches: stage.launches.iter().filter_map(|launch| launch.text(extents)).collect(),
        };
        entry.schedule.stages(extents).map(stage).collect()
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        &mut self.state.kv
    }

    fn kept(&self, label: &str) -> Result<Option<HostTensor>> {
        let Some((entry, extents)) = self.last else { return Ok(None) };
        let entry = &self.entries[entry];
        let Some(id) = entry.program.kept(label) else { return Ok(None) };
        self.device.bind()?;
        Ok(Some(self.read_value(entry, id, extents)?))
    }

    fn input_bytes(&self) -> usize {
        self.input_bytes
    }

    fn prepare(&mut self, idle: bool) -> Result<bool> {
        let Some(key) = self.graphs.next(idle) else { return Ok(false) };
        self.alive()?;
        self.device.bind().map_err(CoreError::from)?;
        let captured = capture(&self.device, key.extents(), |at| match key.part {
            Part::Step => self.launch_all(key.entry, at),
            Part::MaskedSampler => self.launch_masked(key.entry, at),
        });
        if captured.is_err() {
            // It may be the device that has failed, and not this one capture.
            let alive = self.device.synchronize();
            self.guard(alive)?;
        }
        self.graphs.insert(key, captured);
        Ok(true)
    }

    fn find_unusable(&mut self, step: &Step) -> Result<Option<String>> {
        self.check(step)?;
        let batch = Batch::new(step, &self.slots, &self.limits, &self.geometries, self.vocab_size)?;
        let found = self.run_checked(step, &batch);
        self.guard(found)
    }

    fn set_profiling(&mut self, on: bool) -> Result<()> {
        if on {
            self.device.check_timing()?;
        }
        self.profiling = on;
        Ok(())
    }

    fn take_profiles(&mut self) -> Vec<StepProfile> {
        let timed = std::mem::take(&mut self.timed);
        // A failure is remembered and said by the next call that can fail.
        timed
            .into_iter()
            .map_while(|step| {
                let profile = step.profile();
                self.guard(profile).ok()
            })
            .collect()
    }

    fn failure(&self) -> Option<String> {
        self.failed.clone()
    }

    fn request_limits(&self) -> RequestLimits {
        slots::REQUEST_LIMITS
    }

    fn memory(&self) -> MemoryReport {
        let DeviceState { arena, weights, kv, inputs, slots, sampler, ropes, lists, partial, .. } =
            &self.state;
        let in_flight: usize = self.step_buffers.iter().map(StepBuffers::bytes).sum();
        let scratch = inputs.bytes() + in_flight + slots.bytes() + sampler.bytes() + ropes.bytes();
        let passes: usize = self.entries.iter().map(|entry| entry.pass.len()).sum();
        let scratch = scratch + lists.bytes() + partial.len() + passes;
        MemoryReport { weights: weights.bytes(), kv: kv.len(), arena: arena.len(), scratch }
    }
}

impl CudaExecutable {
    /// Linear layers that some number of rows takes to the vendor's library, over all programs.
    pub fn vendor_layers(&self) -> usize {
        self.entries.iter().map(|entry| entry.schedule.vendor_nodes()).sum()
    }

    /// Graphs that were replayed so far.
    pub fn num_replays(&self) -> usize {
        self.graphs.num_replays
    }

    /// The sampler of rows whose masks have come.
    fn launch_masked(&self, entry: usize, at: Extents) -> crate::Result<()> {
        let sampling = self.entries[entry].sampling.iter().flat_map(|sampling| &sampling.masked);
        sampling.into_iter().try_for_each(|launch| launch.run(&self.device, at))
    }

    fn sample_masked(&mut self, flight: &Flight, masks: &TokenMasks) -> crate::Result<()> {
        self.device.bind()?;
        self.state.sampler.upload_masks(&self.device, masks, &flight.batch)?;
        match self.graphs.find_masked_sampler(flight.entry, flight.batch.outputs.len()) {
            Some(graph) => self.graphs.replay(graph)?,
            None => self.launch_masked(flight.entry, self.extents(&flight.batch))?,
        }
        self.state.sampler.masks_are_read(&self.device)?;
        self.finish(flight.entry, &flight.batch, flight.buffers)
    }
}

impl Drop for CudaExecutable {
    fn drop(&mut self) {
        // Memory and modules may still be in use; what fails here has failed before.
        let _ = self.device.bind();
        let _ = self.device.synchronize();
    }
}

/// What the launches of a step of these extents are sized for.
const fn extents_of(counts: &Counts) -> Extents {
    let Counts { tokens, outputs, seqs, kv_positions, .. } = *counts;
    Extents { tokens, outputs, seqs, prefill: tokens > seqs, chunks: kv_positions > CHUNK * seqs }
}

/// Whether log-probabilities of some row are wanted.
fn scores(batch: &Batch) -> bool {
    batch.outputs.iter().any(|output| output.want.scored())
}
