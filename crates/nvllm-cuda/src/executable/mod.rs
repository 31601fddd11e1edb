//! A loaded model: steps in, results out, with several steps on the device at once.

use nvllm_core::device::StepCheck;
use nvllm_core::host::Batch;
use nvllm_core::program::Counts;
use nvllm_core::{
    CoreError, EntryId, Executable, HostTensor, KvCache, MemoryReport, Program, RequestLimits, Result, Stage,
    Step, StepOutput, StepProfile, Ticket, TokenMasks,
};

use crate::graphs::{Part, capture};
use crate::launch::Extents;
use crate::lower;
use crate::slots;

pub use pass_choice::DecodePass;
pub use state::CudaExecutable;
use state::Flight;
pub(crate) use state::{DeviceState, Entry, Parts};

mod pass_choice;
mod results;
mod run;
mod state;

impl CudaExecutable {
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
        let waited = self.step_buffers[flight.buffers].wait();
        self.guard(waited)?;
        let span = self.clock.as_mut().map(|clock| self.step_buffers[flight.buffers].span(clock)).transpose();
        let span = self.guard(span)?;
        // SAFETY: the step was waited for, and its buffers serve the next one after this call.
        let results = unsafe { self.step_buffers[flight.buffers].results() };
        self.output(&flight, results, span)
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
        let scratch = inputs.bytes() + slots.bytes() + sampler.bytes() + ropes.bytes();
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
}

impl Drop for CudaExecutable {
    fn drop(&mut self) {
        // Memory and modules may still be in use; what fails here has failed before.
        let _ = self.device.bind();
        let _ = self.device.synchronize();
    }
}

/// What the launches of a step of these extents are sized for.
fn extents_of(counts: &Counts) -> Extents {
    let Counts { tokens, outputs, seqs, kv_positions, .. } = *counts;
    let positions = kv_positions.div_ceil(seqs.max(1));
    Extents { tokens, outputs, seqs, prefill: tokens > seqs, positions, draws: true }
}
