//! The [`Executable`] of every host backend: slots, steps in flight and sampling around a forward pass.

use std::collections::VecDeque;

use super::{Batch, OpClock, Slots, sample_rows};
use crate::{
    CoreError, EntryId, Executable, KvCache, KvGeometry, Limits, MemoryReport, Program, Result, Step,
    StepOutput, StepProfile, Tensor, Ticket, TokenMasks,
};

/// What a host backend adds: running its programs on a resolved batch.
pub trait Forward {
    /// Runs every op of an entry program but the sampler, and tells `clock` when each has ended.
    fn forward(&mut self, entry: usize, batch: &Batch, clock: &mut OpClock) -> Result<()>;
    /// The logits `[outputs, vocab]` that the last forward pass left; empty if the program has none.
    fn logits(&self) -> &[f32];
    /// The entry programs, as they run.
    fn programs(&self) -> &[Program];
    /// Geometry of each KV group.
    fn geometries(&self) -> &[KvGeometry];
    /// The physical KV cache.
    fn kv_cache(&mut self) -> &mut dyn KvCache;
    /// As [`Executable::kept`].
    fn kept(&self, label: &str) -> Option<Box<dyn Tensor>>;
    /// What is held.
    fn memory(&self) -> MemoryReport;
}

/// A step whose forward pass has run.
struct Pending {
    ticket: u64,
    state: State,
}

enum State {
    /// Waits for its masks, with what the sampler needs.
    Masked { batch: Batch, logits: Vec<f32> },
    /// Done.
    Sampled(StepOutput),
}

/// An [`Executable`] over a [`Forward`].
pub struct HostExecutable<F> {
    forward: F,
    slots: Slots,
    limits: Limits,
    vocab_size: usize,
    pending: VecDeque<Pending>,
    clock: OpClock,
    profiling: bool,
    profiles: Vec<StepProfile>,
}

impl<F: Forward> HostExecutable<F> {
    /// A model loaded under `limits`.
    pub fn new(forward: F, limits: &Limits, vocab_size: usize) -> Self {
        Self {
            forward,
            slots: Slots::new(limits.seqs),
            limits: limits.clone(),
            vocab_size,
            pending: VecDeque::new(),
            clock: OpClock::default(),
            profiling: false,
            profiles: Vec::new(),
        }
    }
}

impl<F: Forward> Executable for HostExecutable<F> {
    fn submit(&mut self, step: &Step) -> Result<Ticket> {
        if self.pending.len() >= self.limits.max_in_flight {
            let problem = format!("is one too many; {} may be in flight", self.limits.max_in_flight);
            return Err(CoreError::step(step.id, problem));
        }
        if let Some(waiting) = self.pending.iter().find(|p| matches!(p.state, State::Masked { .. })) {
            let problem = format!("follows step {}, which still awaits its masks", waiting.ticket);
            return Err(CoreError::step(step.id, problem));
        }
        let num_programs = self.forward.programs().len();
        if step.entry.index() >= num_programs {
            let problem = format!("names entry program {}; {num_programs} exist", step.entry);
            return Err(CoreError::step(step.id, problem));
        }
        let replaced = self.slots.reset(step, self.vocab_size)?;
        if self.profiling {
            self.clock.begin();
        }
        let batch = Batch::new(step, &self.slots, &self.limits, self.forward.geometries(), self.vocab_size)
            .and_then(|batch| {
                self.clock.ready();
                self.forward.forward(step.entry.index(), &batch, &mut self.clock).map(|()| batch)
            });
        let batch = match batch {
            Ok(batch) => batch,
            Err(e) => {
                self.slots.restore(replaced);
                self.clock.end();
                return Err(e);
            }
        };
        self.slots.advance(&batch);
        let state = if step.awaits_masks {
            State::Masked { batch, logits: self.forward.logits().to_vec() }
        } else {
            let masks = TokenMasks::default();
            let logits = self.forward.logits();
            let output = sample_rows(logits, self.vocab_size, &batch, &masks, &mut self.slots);
            self.clock.lap(None);
            State::Sampled(output)
        };
        if let Some(ops) = self.clock.end() {
            self.profiles.push(StepProfile { step: step.id, entry: step.entry, ops });
        }
        self.pending.push_back(Pending { ticket: step.id.0, state });
        Ok(Ticket(step.id))
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        let pending = self.pending.iter_mut().find(|p| p.ticket == ticket.0.0);
        let Some(Pending { state: state @ State::Masked { .. }, .. }) = pending else {
            return Err(CoreError::step(ticket.0, "does not await masks"));
        };
        if let State::Masked { batch, logits } = &state {
            let output = sample_rows(logits, self.vocab_size, batch, &masks, &mut self.slots);
            *state = State::Sampled(output);
        }
        Ok(())
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput> {
        match self.pending.pop_front() {
            Some(Pending { ticket: oldest, state: State::Sampled(output) }) if oldest == ticket.0.0 => {
                Ok(output)
            }
            other => {
                let masked = other.as_ref().is_some_and(|p| p.ticket == ticket.0.0);
                other.into_iter().for_each(|p| self.pending.push_front(p));
                let problem =
                    if masked { "still awaits its masks" } else { "is not the oldest step in flight" };
                Err(CoreError::step(ticket.0, problem))
            }
        }
    }

    fn program(&self, entry: EntryId) -> Option<&Program> {
        self.forward.programs().get(entry.index())
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        self.forward.kv_cache()
    }

    fn kept(&self, label: &str) -> Option<Box<dyn Tensor>> {
        self.forward.kept(label)
    }

    fn memory(&self) -> MemoryReport {
        self.forward.memory()
    }

    fn set_profiling(&mut self, on: bool) -> Result<()> {
        self.profiling = on;
        Ok(())
    }

    fn take_profiles(&mut self) -> Vec<StepProfile> {
        std::mem::take(&mut self.profiles)
    }
}
