//! The reference backend: naive, scalar, f32, obviously right. The oracle to which every other backend is held.
//!
//! Every value is a plain vector of f32. Under `Activations::Bf16` each op's output is rounded to bf16 and kept as
//! f32, so that the rounding points of a bf16 backend can be reproduced exactly. Nothing is planned, packed or shared.

mod kv;
mod ops;

use std::collections::VecDeque;

use crate::backend::lower;
use crate::host::{Batch, Slots, sample_rows};
use crate::program::{Node, Program};
use crate::{
    Backend, BackendInfo, CoreError, DType, Executable, HostTensor, KvCache, KvGeometry, Limits,
    MemoryReport, ModelSpec, Op, OrderId, PlanRules, Reason, Result, Step, StepOutput, Tensor, Ticket,
    TokenMasks, ValueId, ValueKind, Weight, WeightSource,
};

use kv::ReferenceKv;

/// Sees every op's outputs after they are made, and may change them: how tests plant faults.
pub type Observer = std::sync::Arc<dyn Fn(&Program, &Node, &mut [Vec<f32>])>;

/// The oracle.
#[derive(Clone, Default)]
pub struct Reference {
    observer: Option<Observer>,
}

impl Reference {
    /// The backend with an observer of every op.
    pub fn observed(observer: Observer) -> Self {
        Self { observer: Some(observer) }
    }
}

impl Backend for Reference {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "reference".into(),
            device: "one thread, scalar".into(),
            memory_bytes: usize::MAX,
        }
    }

    fn supports(&self, op: &Op) -> Result<(), Reason> {
        if op.is_fused() { Err(Reason("it runs primitives; fused ops are expanded".into())) } else { Ok(()) }
    }

    fn plan_rules(&self) -> PlanRules {
        PlanRules::HOST
    }

    fn order(&self, _: &Op, _: usize, _: &Limits) -> OrderId {
        OrderId("ascending")
    }

    fn load(
        &self,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        limits: &Limits,
    ) -> Result<Box<dyn Executable>> {
        limits.check()?;
        spec.check_names(source)?;
        let programs = lower(self, spec)?;
        let weights =
            spec.weights.iter().map(|decl| Weight::load(decl, source)).collect::<Result<Vec<_>>>()?;
        let decoded = weights.iter().map(Weight::to_f32).collect::<Result<Vec<_>>>()?;
        let geometries = spec.kv.iter().map(|kv| KvGeometry::new(kv, limits)).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(Run {
            programs,
            weight_bytes: weights.iter().map(Weight::bytes).sum(),
            weights: decoded,
            kv: ReferenceKv::new(geometries),
            slots: Slots::new(limits.seqs),
            limits: limits.clone(),
            vocab_size: spec.vocab_size,
            observer: self.observer.clone(),
            pending: VecDeque::new(),
            values: Vec::new(),
            entry: 0,
        }))
    }
}

/// A step whose forward pass has run.
struct Pending {
    ticket: u64,
    batch: Batch,
    logits: Vec<f32>,
    output: Option<StepOutput>,
}

struct Run {
    programs: Vec<Program>,
    weights: Vec<Vec<f32>>,
    weight_bytes: usize,
    kv: ReferenceKv,
    slots: Slots,
    limits: Limits,
    vocab_size: usize,
    observer: Option<Observer>,
    pending: VecDeque<Pending>,
    /// Values of the last step, by id.
    values: Vec<Vec<f32>>,
    entry: usize,
}

impl Executable for Run {
    fn submit(&mut self, step: &Step) -> Result<Ticket> {
        if self.pending.len() >= self.limits.max_in_flight {
            let problem = format!("is one too many; {} may be in flight", self.limits.max_in_flight);
            return Err(CoreError::step(step.id, problem));
        }
        if step.entry >= self.programs.len() {
            let problem = format!("names entry program {}; {} exist", step.entry, self.programs.len());
            return Err(CoreError::step(step.id, problem));
        }
        let mut slots = self.slots.clone();
        slots.reset(step, self.vocab_size)?;
        let batch = Batch::new(step, &slots, &self.limits, self.kv.geometries(), self.vocab_size)?;
        self.slots = slots;
        self.forward(step.entry, &batch);
        self.slots.advance(&batch);
        let logits =
            self.programs[step.entry].logits().map(|id| self.values[id.index()].clone()).unwrap_or_default();
        let mut pending = Pending { ticket: step.id.0, batch, logits, output: None };
        if !step.awaits_masks {
            pending.output = Some(self.sample(&pending, &TokenMasks::default()));
        }
        self.pending.push_back(pending);
        Ok(Ticket(step.id))
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        let Some(at) = self.pending.iter().position(|p| p.ticket == ticket.0.0 && p.output.is_none()) else {
            return Err(CoreError::step(ticket.0, "does not await masks"));
        };
        let output = self.sample_at(at, &masks);
        self.pending[at].output = Some(output);
        Ok(())
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput> {
        match self.pending.front() {
            Some(p) if p.ticket == ticket.0.0 && p.output.is_some() => {}
            Some(p) if p.ticket == ticket.0.0 => {
                return Err(CoreError::step(ticket.0, "still awaits its masks"));
            }
            _ => return Err(CoreError::step(ticket.0, "is not the oldest step in flight")),
        }
        let pending = self.pending.pop_front();
        Ok(pending.and_then(|p| p.output).unwrap_or_default())
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        &mut self.kv
    }

    fn kept(&self, label: &str) -> Option<Box<dyn Tensor>> {
        let program = &self.programs[self.entry];
        let id = program.labelled(label)?;
        let (value, data) = (program.value(id), self.values.get(id.index())?);
        if !value.keep {
            return None;
        }
        let dtype = value.kind.dtype(&self.limits);
        Some(Box::new(HostTensor::from_f32([data.len() / value.cols, value.cols], dtype, data)))
    }

    fn memory(&self) -> MemoryReport {
        let arena = self.values.iter().map(|v| DType::F32.size() * v.len()).sum();
        MemoryReport { weights: self.weight_bytes, kv: self.kv.bytes(), arena, scratch: 0 }
    }
}

impl Run {
    fn sample(&mut self, pending: &Pending, masks: &TokenMasks) -> StepOutput {
        sample_rows(&pending.logits, self.vocab_size, &pending.batch, masks, &mut self.slots)
    }

    fn sample_at(&mut self, at: usize, masks: &TokenMasks) -> StepOutput {
        let Pending { logits, batch, .. } = &self.pending[at];
        sample_rows(logits, self.vocab_size, batch, masks, &mut self.slots)
    }

    fn forward(&mut self, entry: usize, batch: &Batch) {
        self.entry = entry;
        let program = &self.programs[entry];
        self.values = vec![Vec::new(); program.values.len()];
        for node in &program.nodes {
            if node.op == Op::Sample {
                continue;
            }
            let inputs: Vec<&[f32]> =
                node.inputs.iter().map(|id| self.values[id.index()].as_slice()).collect();
            let cols = |id: &ValueId| program.value(*id).cols;
            let cx = ops::Context {
                batch,
                weights: &self.weights,
                decls: &program.weights,
                in_cols: node.inputs.iter().map(cols).collect(),
            };
            let mut outputs = ops::run(&node.op, &cx, &inputs, &mut self.kv);
            for (id, out) in node.outputs.iter().zip(&mut outputs) {
                if program.value(*id).kind == ValueKind::Act {
                    let dtype = self.limits.activations.dtype();
                    out.iter_mut().for_each(|x| *x = dtype.round(*x));
                }
            }
            if let Some(observer) = &self.observer {
                observer(program, node, &mut outputs);
            }
            for (id, out) in node.outputs.iter().zip(outputs) {
                self.values[id.index()] = out;
            }
        }
    }
}
