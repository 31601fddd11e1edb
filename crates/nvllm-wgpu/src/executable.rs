//! A loaded model: steps in, results out, with several steps on the device at once.
//!
//! The queue works in order: what a step writes to the inputs is written behind every earlier step,
//! and a step's results are copied to memory of its own at its end. So the host waits for nothing
//! before `collect`.

use std::collections::VecDeque;
use std::sync::Arc;

use nvllm_core::device::StepCheck;
use nvllm_core::host::{Batch, BatchOutput, Slots};
use nvllm_core::program::{Counts, MemoryPlan};
use nvllm_core::{
    CoreError, DType, EntryId, Executable, HostTensor, KvCache, KvGeometry, Limits, MemoryReport, Program,
    RequestLimits, Result, RowOutput, Stage as CoreStage, Step, StepOutput, StepProfile, Ticket, TokenMasks,
    ValueId, ValueKind,
};
use wgpu::{Buffer, CommandEncoder, ComputePass, ComputePassDescriptor, SubmissionIndex};

use crate::begin::Begin;
use crate::gpu::Gpu;
use crate::inputs::REQUEST_LIMITS;
use crate::lower::{Dispatch, Extents, Stage};
use crate::profile::Timed;
use crate::rows::{row_of, row_output};
use crate::sampler::{MAX_TOP, Results, Sampling, result_bytes};
use crate::state::DeviceState;

/// One entry program, lowered.
pub(crate) struct Entry {
    pub program: Program,
    pub plan: MemoryPlan,
    /// By node.
    pub stages: Vec<Stage>,
    /// What samples the program's logits, if it makes some.
    pub sampling: Option<Sampling>,
}

/// A submitted step.
struct Flight {
    ticket: u64,
    /// Index into `on_host`.
    buffer: usize,
    entry: usize,
    batch: Batch,
    /// Copies of all rows of the program's output, if one is wanted on the host.
    rows: Option<Buffer>,
    awaits_masks: bool,
    /// Its last submission.
    index: SubmissionIndex,
}

/// An [`Executable`] on an adapter.
pub(crate) struct WgpuExecutable {
    gpu: Arc<Gpu>,
    limits: Limits,
    vocab_size: usize,
    geometries: Vec<KvGeometry>,
    entries: Vec<Entry>,
    begin: Begin,
    state: DeviceState,
    /// Where the results of each step in flight are copied.
    on_host: Vec<Buffer>,
    /// Lengths and positions, which the host knows; tokens are the device's.
    slots: Slots,
    flights: VecDeque<Flight>,
    next_buffer: usize,
    input_bytes: usize,
    /// Entry and extents of the last step, for kept values.
    last: Option<(usize, Extents)>,
    /// Whether the steps that come are timed op by op, and those that were and nobody asked for.
    profiling: bool,
    timed: Vec<Timed>,
    /// Set by the first error of the device; every later call returns it.
    failed: Option<String>,
}

/// What [`WgpuExecutable::new`] is made from.
pub(crate) struct Parts {
    pub gpu: Arc<Gpu>,
    pub limits: Limits,
    pub vocab_size: usize,
    pub geometries: Vec<KvGeometry>,
    pub entries: Vec<Entry>,
    pub state: DeviceState,
}

impl WgpuExecutable {
    pub(crate) fn new(parts: Parts) -> crate::error::Result<Self> {
        let Parts { gpu, limits, vocab_size, geometries, entries, state } = parts;
        let on_host = (0..limits.max_in_flight)
            .map(|_| gpu.readback(result_bytes(limits.step_outputs), "results"))
            .collect::<crate::error::Result<_>>()?;
        Ok(Self {
            begin: Begin::new(&gpu, &state)?,
            gpu,
            slots: Slots::new(limits.seqs),
            limits,
            vocab_size,
            geometries,
            entries,
            state,
            on_host,
            flights: VecDeque::new(),
            next_buffer: 0,
            input_bytes: 0,
            last: None,
            profiling: false,
            timed: Vec::new(),
            failed: None,
        })
    }
}

/// Why a step may not be submitted, before anything has changed.
impl WgpuExecutable {
    fn check(&self, step: &Step) -> Result<()> {
        self.alive()?;
        let check = StepCheck {
            limits: &self.limits,
            request_limits: REQUEST_LIMITS,
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
                backend: "wgpu".into(),
                problem: format!("the device failed before: {problem}; load the model again"),
            }),
        }
    }

    /// Remembers a failure of the device: what is on it can no longer be relied on.
    fn guard<T>(&mut self, result: crate::error::Result<T>) -> Result<T> {
        result.map_err(|error| {
            self.failed.get_or_insert_with(|| error.to_string());
            error.into()
        })
    }
}

/// A step on its way to the device and back.
impl WgpuExecutable {
    /// Puts a checked step on the queue.
    fn start(
        &mut self,
        step: &Step,
        batch: &Batch,
        rows: Option<&Buffer>,
    ) -> crate::error::Result<SubmissionIndex> {
        let extents = extents(batch);
        self.last = Some((step.entry.index(), extents));
        let (num_copies, bytes) = self.state.inputs.upload(&self.gpu, step, batch);
        self.input_bytes = bytes;
        let mut encoder = self.gpu.encoder();
        self.state.kv.copies(&mut encoder, &step.copies);
        let counts = self.state.slots.count(&self.gpu, &mut encoder, step)?;
        let Entry { program, plan, stages, sampling } = &self.entries[step.entry.index()];
        let begin = |pass: &mut ComputePass<'_>| {
            self.begin.run(pass, num_copies, step.resets.len(), extents);
            counts.iter().for_each(|count| count.run(pass, extents));
        };
        let all = |pass: &mut ComputePass<'_>, launches: &[Dispatch]| {
            launches.iter().for_each(|launch| launch.run(pass, extents));
        };
        let plain = sampling.as_ref().map_or(&[][..], |sampling| sampling.of(batch));
        let mut timed = None;
        if self.profiling {
            let num_passes = 1 + stages.len() + usize::from(!plain.is_empty());
            let timed = timed.insert(Timed::new(&self.gpu, (step.id, step.entry), num_passes)?);
            timed.pass(&mut encoder, None, begin);
            for (at, stage) in stages.iter().enumerate() {
                timed.pass(&mut encoder, Some(at..at + 1), |pass| all(pass, &stage.launches));
            }
            if !plain.is_empty() {
                timed.pass(&mut encoder, None, |pass| all(pass, plain));
            }
            timed.finish(&mut encoder);
        } else {
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
            begin(&mut pass);
            stages.iter().for_each(|stage| all(&mut pass, &stage.launches));
            all(&mut pass, plain);
        }
        if let (Some(rows), Some(output)) = (rows, program.output) {
            let place = plan.place(output.value());
            let from = &self.state.arena[place.segment];
            let len = batch.outputs.len() * program.value(output.value()).cols * 4;
            encoder.copy_buffer_to_buffer(from, place.offset as u64, rows, 0, len as u64);
        }
        if !step.awaits_masks() {
            self.finish(&mut encoder, step.entry.index(), batch, self.next_buffer);
        }
        let index = self.gpu.submit(encoder)?;
        self.timed.extend(timed.map(|timed| timed.submitted(index.clone())));
        Ok(index)
    }

    /// Scores rows and copies the results to where the next step does not write them.
    fn finish(&self, encoder: &mut CommandEncoder, entry: usize, batch: &Batch, buffer: usize) {
        let Some(sampling) = &self.entries[entry].sampling else { return };
        if batch.outputs.is_empty() {
            return;
        }
        if scores(batch) {
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
            sampling.logprobs.run(&mut pass, extents(batch));
        }
        let (results, on_host) = (&self.state.sampler.results, &self.on_host[buffer]);
        encoder.copy_buffer_to_buffer(results, 0, on_host, 0, self.result_len(batch) as u64);
    }

    /// Bytes of the results that a step leaves for the host: its tokens, and all up to its scored
    /// rows if there are any.
    fn result_len(&self, batch: &Batch) -> usize {
        if scores(batch) { result_bytes(self.limits.step_outputs) } else { batch.outputs.len() * 4 }
    }

    /// Memory for a copy of all rows of the program's output, if the host wants one of them.
    fn alloc_rows(&self, entry: usize, batch: &Batch) -> crate::error::Result<Option<Buffer>> {
        let wants = |output: &BatchOutput| {
            output.want.values || usize::from(output.want.top_logprobs.unwrap_or(0)) > MAX_TOP
        };
        let program = &self.entries[entry].program;
        let Some(output) = program.output.filter(|_| batch.outputs.iter().any(wants)) else {
            return Ok(None);
        };
        let len = batch.outputs.len() * program.value(output.value()).cols * 4;
        self.gpu.readback(len, "rows of the output").map(Some)
    }

    /// Words of a value as a tensor of its dtype.
    fn tensor(&self, entry: &Entry, id: ValueId, rows: usize, words: &[u8]) -> HostTensor {
        let value = entry.program.value(id);
        let shape = [rows, value.cols];
        match value.kind {
            ValueKind::I32 => HostTensor::from_bytes(shape, DType::I32, words.to_vec()),
            kind => {
                let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(words);
                HostTensor::from_f32(shape, kind.dtype(&self.limits), &numbers)
            }
        }
    }

    /// A value as the last launches left it.
    fn read_value(&self, entry: &Entry, id: ValueId, extents: Extents) -> crate::error::Result<HostTensor> {
        let value = entry.program.value(id);
        let (rows, place) = (extents.rows(value.rows), entry.plan.place(id));
        let len = rows * value.cols * 4;
        let bytes = if len == 0 {
            Vec::new()
        } else {
            self.gpu.read_now(&[(&self.state.arena[place.segment], place.offset, len)])?
        };
        Ok(self.tensor(entry, id, rows, &bytes))
    }

    /// A finished step's output, from its buffers.
    fn output(&self, flight: &Flight) -> crate::error::Result<StepOutput> {
        let entry = &self.entries[flight.entry];
        let num = flight.batch.outputs.len();
        let values = match flight.rows.as_ref().zip(entry.program.output) {
            None => None,
            Some((rows, output)) => {
                let len = num * entry.program.value(output.value()).cols * 4;
                let take = |bytes: &[u8]| self.tensor(entry, output.value(), num, bytes);
                Some(self.gpu.read(rows, len, flight.index.clone(), take)?)
            }
        };
        let len = if entry.sampling.is_some() { self.result_len(&flight.batch) } else { 0 };
        if num == 0 || len == 0 {
            self.gpu.wait(flight.index.clone())?;
            let wanted = |at: usize| values.as_ref().filter(|_| flight.batch.outputs[at].want.values);
            let row =
                |at| RowOutput { values: wanted(at).map(|rows| row_of(rows, at)), ..RowOutput::default() };
            return Ok(StepOutput { rows: (0..num).map(row).collect(), span: None });
        }
        let words: Vec<u32> = self.gpu.read(
            &self.on_host[flight.buffer],
            len,
            flight.index.clone(),
            bytemuck::pod_collect_to_vec,
        )?;
        let results = Results::new(&words, self.limits.step_outputs);
        let row = |(at, output): (usize, &BatchOutput)| row_output(&results, at, output, values.as_ref());
        let rows = flight.batch.outputs.iter().enumerate().map(row).collect();
        Ok(StepOutput { rows, span: None })
    }

    /// Runs a step op by op, and reads what each made.
    fn run_checked(&mut self, step: &Step, batch: &Batch) -> crate::error::Result<Option<String>> {
        let extents = extents(batch);
        self.last = Some((step.entry.index(), extents));
        let (num_copies, _) = self.state.inputs.upload(&self.gpu, step, batch);
        let entry = &self.entries[step.entry.index()];
        for (at, stage) in entry.stages.iter().enumerate() {
            let mut encoder = self.gpu.encoder();
            {
                let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
                if at == 0 {
                    self.begin.run(&mut pass, num_copies, step.resets.len(), extents);
                }
                stage.checked().iter().for_each(|launch| launch.run(&mut pass, extents));
            }
            self.gpu.submit(encoder)?;
            for id in entry.program.number_outputs(at) {
                if !self.read_value(entry, id, extents)?.is_finite() {
                    return Ok(Some(entry.program.line(&entry.program.nodes[at])));
                }
            }
        }
        Ok(None)
    }

    fn sample_masked(&self, flight: &Flight, masks: &TokenMasks) -> crate::error::Result<SubmissionIndex> {
        self.state.sampler.upload_masks(&self.gpu, masks, &flight.batch);
        let mut encoder = self.gpu.encoder();
        if let Some(sampling) = &self.entries[flight.entry].sampling {
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
            sampling.masked.iter().for_each(|launch| launch.run(&mut pass, extents(&flight.batch)));
        }
        self.finish(&mut encoder, flight.entry, &flight.batch, flight.buffer);
        self.gpu.submit(encoder)
    }
}

impl Executable for WgpuExecutable {
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
        // Before anything is on the queue: what does not fit fails the step and not the model.
        let rows = match self.alloc_rows(step.entry.index(), &batch) {
            Ok(rows) => rows,
            Err(error) => {
                self.slots.restore(replaced);
                return Err(error.into());
            }
        };
        let started = self.start(step, &batch, rows.as_ref());
        let index = self.guard(started)?;
        self.slots.advance(&batch);
        let buffer = self.next_buffer;
        self.next_buffer = (buffer + 1) % self.on_host.len();
        let (entry, awaits_masks) = (step.entry.index(), step.awaits_masks());
        self.flights.push_back(Flight { ticket: step.id.0, buffer, entry, batch, rows, awaits_masks, index });
        Ok(Ticket(step.id))
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        self.alive()?;
        let waiting = self.flights.iter().position(|f| f.ticket == ticket.0.0 && f.awaits_masks);
        let Some(at) = waiting else { return Err(CoreError::step(ticket.0, "does not await masks")) };
        self.flights[at].batch.check_masks(ticket.0, &masks)?;
        let sampled = self.sample_masked(&self.flights[at], &masks);
        let index = self.guard(sampled)?;
        let flight = &mut self.flights[at];
        (flight.awaits_masks, flight.index) = (false, index);
        Ok(())
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
        let output = self.output(&flight);
        self.guard(output)
    }

    fn program(&self, entry: EntryId) -> Option<&Program> {
        self.entries.get(entry.index()).map(|entry| &entry.program)
    }

    fn schedule(&self, entry: EntryId, counts: &Counts) -> Vec<CoreStage> {
        let Counts { tokens, outputs, seqs, kv_positions, .. } = *counts;
        // As if they were equally long.
        let longest = kv_positions.checked_div(seqs).unwrap_or(0);
        let extents = Extents { tokens, outputs, seqs, longest };
        let Some(entry) = self.entries.get(entry.index()) else { return Vec::new() };
        let stage = |(at, stage): (usize, &Stage)| CoreStage {
            nodes: at..at + 1,
            orders: vec![stage.order],
            launches: stage.launches.iter().filter_map(|launch| launch.text(extents)).collect(),
        };
        entry.stages.iter().enumerate().map(stage).collect()
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        &mut self.state.kv
    }

    fn kept(&self, label: &str) -> Result<Option<HostTensor>> {
        let Some((entry, extents)) = self.last else { return Ok(None) };
        let entry = &self.entries[entry];
        let Some(id) = entry.program.kept(label) else { return Ok(None) };
        Ok(Some(self.read_value(entry, id, extents)?))
    }

    fn input_bytes(&self) -> usize {
        self.input_bytes
    }

    fn find_unusable(&mut self, step: &Step) -> Result<Option<String>> {
        self.check(step)?;
        let batch = Batch::new(step, &self.slots, &self.limits, &self.geometries, self.vocab_size)?;
        let found = self.run_checked(step, &batch);
        self.guard(found)
    }

    fn set_profiling(&mut self, on: bool) -> Result<()> {
        if on {
            self.gpu.check_timing()?;
        }
        self.profiling = on;
        Ok(())
    }

    fn take_profiles(&mut self) -> Vec<StepProfile> {
        let timed = std::mem::take(&mut self.timed);
        // A failure is remembered and said by the next call that can fail.
        let gpu = Arc::clone(&self.gpu);
        let profile = |step: Timed| self.guard(step.profile(&gpu)).ok();
        timed.into_iter().map_while(profile).collect()
    }

    fn failure(&self) -> Option<String> {
        self.failed.clone()
    }

    fn request_limits(&self) -> RequestLimits {
        REQUEST_LIMITS
    }

    fn memory(&self) -> MemoryReport {
        let DeviceState { arena, weights, kv, inputs, slots, sampler, kv_scratch } = &self.state;
        MemoryReport {
            weights: weights.bytes(),
            kv: kv.bytes(),
            arena: arena.iter().map(|buffer| buffer.size() as usize).sum(),
            scratch: inputs.bytes() + slots.bytes() + sampler.bytes() + kv_scratch,
        }
    }
}

/// What launches of a step are sized for.
fn extents(batch: &Batch) -> Extents {
    let longest = batch.seqs.iter().map(|seq| seq.kv_start + seq.num_rows).max().unwrap_or(0);
    Extents { tokens: batch.tokens.len(), outputs: batch.outputs.len(), seqs: batch.seqs.len(), longest }
}

/// Whether log-probabilities of some row are wanted.
fn scores(batch: &Batch) -> bool {
    batch.outputs.iter().any(|output| output.want.scored())
}
