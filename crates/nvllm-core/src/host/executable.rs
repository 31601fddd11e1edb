//! The [`Executable`] of every host backend: slots, steps in flight and sampling around a forward
//! pass.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Batch, BatchOutput, OpClock, Slots, sample_row};
use crate::program::Counts;
use crate::{
    CoreError, EntryId, ExactHeadCounts, Executable, HostTensor, KvCache, KvGeometry, Limits, MemoryReport,
    OrderId, OutputRow, Program, ProgramOutput, Result, RowOutput, Stage, Step, StepOutput, StepProfile,
    StepSpan, Tensor, Ticket, TokenMasks, ValueId,
};

/// What a host backend adds: running its programs on a resolved batch.
pub trait Forward {
    /// Begins a forward pass of an entry program.
    fn begin(&mut self, entry: usize, batch: &Batch);
    /// Runs the next op of the pass: that of node `node`.
    fn run(&mut self, node: usize, batch: &Batch) -> Result<()>;
    /// The logits `[outputs, vocab]` that the last pass left; empty if the program makes none.
    fn logits(&self) -> &[f32];
    /// A copy of a value `[rows, cols]` of the last pass.
    fn value(&self, id: ValueId) -> HostTensor;
    /// The entry programs, as they run.
    fn programs(&self) -> &[Program];
    /// The order in which a node sums, whatever the number of rows.
    fn order(&self, entry: usize, node: usize) -> OrderId;
    /// Geometry of each KV group.
    fn geometries(&self) -> &[KvGeometry];
    /// The physical KV cache.
    fn kv_cache(&mut self) -> &mut dyn KvCache;
    /// What is held.
    fn memory(&self) -> MemoryReport;
    /// What came of [`Limits::exact_head`].
    fn exact_head(&self) -> ExactHeadCounts {
        ExactHeadCounts::default()
    }
}

/// A step whose forward pass has run.
struct Pending {
    ticket: u64,
    state: State,
    span: StepSpan,
}

enum State {
    /// Some rows wait for their masks; the others are done.
    Masked { batch: Batch, logits: Vec<f32>, rows: Vec<RowOutput> },
    /// Done.
    Sampled(Vec<RowOutput>),
}

/// An [`Executable`] over a [`Forward`].
pub struct HostExecutable<F> {
    forward: F,
    /// The entry program of the last pass.
    last: Option<usize>,
    slots: Slots,
    limits: Limits,
    vocab_size: usize,
    pending: VecDeque<Pending>,
    /// From which spans of steps count.
    epoch: Instant,
    clock: OpClock,
    profiling: bool,
    profiles: Vec<StepProfile>,
}

impl<F: Forward> HostExecutable<F> {
    /// A model loaded under `limits`.
    pub fn new(forward: F, limits: &Limits, vocab_size: usize) -> Self {
        Self {
            forward,
            last: None,
            slots: Slots::new(limits.seqs),
            limits: limits.clone(),
            vocab_size,
            pending: VecDeque::new(),
            epoch: Instant::now(),
            clock: OpClock::default(),
            profiling: false,
            profiles: Vec::new(),
        }
    }
}

impl<F: Forward> HostExecutable<F> {
    /// The copies of a step, which have been checked.
    fn copy_blocks(&mut self, step: &Step) -> Result<()> {
        let cache = self.forward.kv_cache();
        step.copies.iter().try_for_each(|copy| cache.copy_blocks(copy.group, &[(copy.from, copy.to)]))
    }

    /// A forward pass, up to the first op after which `stop` holds: its node, if there is one.
    fn pass(
        &mut self,
        entry: usize,
        batch: &Batch,
        stop: impl Fn(&F, usize) -> bool,
    ) -> Result<Option<usize>> {
        self.last = Some(entry);
        self.forward.begin(entry, batch);
        for node in 0..self.forward.programs()[entry].nodes.len() {
            self.forward.run(node, batch)?;
            self.clock.lap(Some(node));
            if stop(&self.forward, node) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// The rows of a batch whose forward pass has just run. Those that await a mask are left empty.
    fn rows(&mut self, batch: &Batch) -> Vec<RowOutput> {
        let (forward, slots, vocab_size) = (&self.forward, &mut self.slots, self.vocab_size);
        let logits = forward.logits();
        let output = self.last.and_then(|entry| forward.programs()[entry].output);
        let wanted = || batch.outputs.iter().any(|output| output.want.values);
        let hidden = match output {
            Some(ProgramOutput::Hidden(id)) if wanted() => Some(forward.value(id)),
            _ => None,
        };
        let row = |(index, output): (usize, &BatchOutput)| match output.want {
            OutputRow { awaits_mask: true, .. } => RowOutput::default(),
            _ if !logits.is_empty() => {
                sample_row(&logits[index * vocab_size..][..vocab_size], batch, index, None, slots)
            }
            OutputRow { values: true, .. } => {
                let values = hidden.as_ref().map(|all| Box::new(all.row(index)) as Box<dyn Tensor>);
                RowOutput { values, ..RowOutput::default() }
            }
            _ => RowOutput::default(),
        };
        batch.outputs.iter().enumerate().map(row).collect()
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
        let began = self.epoch.elapsed();
        self.forward.programs()[step.entry.index()].check_outputs(step)?;
        let replaced = self.slots.reset(step, self.vocab_size)?;
        if self.profiling {
            self.clock.begin();
        }
        let batch = Batch::new(step, &self.slots, &self.limits, self.forward.geometries(), self.vocab_size)
            .and_then(|batch| {
                self.copy_blocks(step)?;
                self.clock.ready();
                self.pass(step.entry.index(), &batch, |_, _| false).map(|_| batch)
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
        let rows = self.rows(&batch);
        let logits = self.forward.logits();
        if !logits.is_empty() {
            self.clock.lap(None);
        }
        let state = if step.awaits_masks() {
            State::Masked { batch, logits: logits.to_vec(), rows }
        } else {
            State::Sampled(rows)
        };
        if let Some(ops) = self.clock.end() {
            self.profiles.push(StepProfile { step: step.id, entry: step.entry, ops });
        }
        let span = StepSpan { began, ended: self.epoch.elapsed() };
        self.pending.push_back(Pending { ticket: step.id.0, state, span });
        Ok(Ticket(step.id))
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        let pending = self.pending.iter_mut().find(|p| p.ticket == ticket.0.0);
        let Some(Pending { state: state @ State::Masked { .. }, span, .. }) = pending else {
            return Err(CoreError::step(ticket.0, "does not await masks"));
        };
        let State::Masked { batch, logits, rows } = state else { return Ok(()) };
        batch.check_masks(ticket.0, &masks)?;
        for (index, logits) in logits.chunks(self.vocab_size).enumerate() {
            if batch.outputs[index].want.awaits_mask {
                rows[index] = sample_row(logits, batch, index, masks.of(index), &mut self.slots);
            }
        }
        *state = State::Sampled(std::mem::take(rows));
        span.ended = self.epoch.elapsed();
        Ok(())
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput> {
        match self.pending.pop_front() {
            Some(Pending { ticket: oldest, state: State::Sampled(rows), span }) if oldest == ticket.0.0 => {
                Ok(StepOutput { rows, span: Some(span) })
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

    fn schedule(&self, entry: EntryId, _: &Counts) -> Vec<Stage> {
        let nodes = self.program(entry).map_or(0, |program| program.nodes.len());
        let stage = |node: usize| {
            let orders = vec![self.forward.order(entry.index(), node)];
            Stage { nodes: node..node + 1, orders, launches: Vec::new() }
        };
        (0..nodes).map(stage).collect()
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        self.forward.kv_cache()
    }

    fn kept(&self, label: &str) -> Result<Option<HostTensor>> {
        let program = self.last.map(|entry| &self.forward.programs()[entry]);
        let id = program.and_then(|program| program.kept(label));
        Ok(id.map(|id| self.forward.value(id)))
    }

    fn find_unusable(&mut self, step: &Step) -> Result<Option<String>> {
        let mut batch =
            Batch::new(step, &self.slots, &self.limits, self.forward.geometries(), self.vocab_size)?;
        // Every logit is looked at.
        batch.outputs.iter_mut().for_each(|output| output.largest_only = false);
        let entry = step.entry.index();
        let not_finite = |forward: &F, node: usize| {
            let mut values = forward.programs()[entry].number_outputs(node).map(|id| forward.value(id));
            values.any(|value| !value.is_finite())
        };
        let node = self.pass(entry, &batch, not_finite)?;
        let program = &self.forward.programs()[entry];
        Ok(node.map(|node| program.line(&program.nodes[node])))
    }

    fn memory(&self) -> MemoryReport {
        self.forward.memory()
    }

    fn exact_head(&self) -> ExactHeadCounts {
        self.forward.exact_head()
    }

    fn set_profiling(&mut self, on: bool) -> Result<()> {
        self.profiling = on;
        Ok(())
    }

    fn take_profiles(&mut self) -> Vec<StepProfile> {
        std::mem::take(&mut self.profiles)
    }
}
