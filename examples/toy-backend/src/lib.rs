//! The smallest backend that passes the conformance suite: primitive ops, one thread, and tensors
//! that are read as f32 and written back in their own dtype.
//!
//! A backend is two traits of `nvllm-core`. [`Backend`] says which ops it runs and loads what was
//! planned; [`Executable`] runs steps. A backend on the host has most of the second for nothing:
//! [`HostExecutable`] keeps slots, steps in flight and sampling, and asks for a [`Forward`] that
//! runs one op after another. So what is written here is the op loop below, the ops (`ops.rs`) and
//! the KV cache (`kv.rs`).
//!
//! Fused ops are refused: the planner expands them into primitives. Coded weights are refused too,
//! by name, and dense ones are read row by row as they are needed; a KV cache of codes is refused
//! likewise.

mod kv;
mod ops;

use nvllm_core::host::{Batch, Forward, HostExecutable, memory_bytes};
use nvllm_core::{
    Backend, BackendInfo, Executable, HostTensor, KvCache, KvFormat, KvGeometry, Limits, MemoryReport,
    OpQuery, OrderId, Plan, PlanRules, Program, Reason, Result, ValueId, Weight, WeightDecl, WeightInfo, WeightSource,
};

use kv::ToyKv;

/// The backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToyBackend;

impl Backend for ToyBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "toy".into(),
            device: "one thread".into(),
            memory_bytes: memory_bytes(),
            memory_share: BackendInfo::HOST_MEMORY_SHARE,
            seqs: BackendInfo::HOST_SEQS,
            step_tokens: 64,
            max_in_flight: 1,
            driver: None,
            clocks_mhz: None,
        }
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        query.plain_weights()?;
        query.kv_format_among(&KvFormat::PLAIN)?;
        if query.op.is_fused() { Err(Reason("it runs primitives".into())) } else { Ok(()) }
    }

    fn plan_rules(&self) -> PlanRules {
        PlanRules::HOST
    }

    fn load(&self, plan: Plan, source: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        let Plan { spec, limits, kv, .. } = plan;
        let weight = |decl: &WeightDecl| {
            // What was planned as dense may come as codes all the same; said before it is read.
            WeightInfo::of(decl, source)?.plain().map_err(|reason| decl.refused("toy", reason))?;
            Weight::load(decl, source)
        };
        let run = Run {
            last_uses: spec.programs.iter().map(|p| p.lifetimes().iter().map(|l| l.1).collect()).collect(),
            programs: spec.programs,
            weights: spec.weights.iter().map(weight).collect::<Result<_>>()?,
            kv: ToyKv::new(kv)?,
            limits: limits.clone(),
            entry: 0,
            values: Vec::new(),
            logits: Vec::new(),
        };
        Ok(Box::new(HostExecutable::new(run, &limits, spec.vocab_size)))
    }
}

/// A loaded model.
struct Run {
    programs: Vec<Program>,
    /// For each value of each program the last node that reads it.
    last_uses: Vec<Vec<usize>>,
    weights: Vec<Weight>,
    kv: ToyKv,
    limits: Limits,
    entry: usize,
    /// Values of the pass that are still needed, by id.
    values: Vec<Option<HostTensor>>,
    logits: Vec<f32>,
}

impl Forward for Run {
    fn begin(&mut self, entry: usize, _: &Batch) {
        self.entry = entry;
        self.values = vec![None; self.programs[entry].values.len()];
        self.logits.clear();
    }

    fn run(&mut self, at: usize, batch: &Batch) -> Result<()> {
        let program = &self.programs[self.entry];
        let node = &program.nodes[at];
        let read = |id: &ValueId| self.values[id.index()].as_ref().map_or_else(Vec::new, HostTensor::to_f32);
        let inputs: Vec<ops::Input> = node
            .inputs
            .iter()
            .map(|id| ops::Input { data: read(id), cols: program.value(*id).cols })
            .collect();
        let made = ops::run(&node.op, &inputs, batch, &self.weights, &mut self.kv)?;
        for (id, data) in node.outputs.iter().zip(made) {
            let value = program.value(*id);
            let shape = [data.len() / value.cols, value.cols];
            // Rounds to the dtype that the value has.
            let tensor = HostTensor::from_f32(shape, value.kind.dtype(&self.limits), &data);
            if program.logits() == Some(*id) {
                self.logits = tensor.to_f32();
            }
            self.values[id.index()] = Some(tensor);
        }
        let last_uses = &self.last_uses[self.entry];
        for id in node.inputs.iter().filter(|id| last_uses[id.index()] <= at) {
            self.values[id.index()] = None;
        }
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        &self.logits
    }

    fn value(&self, id: ValueId) -> HostTensor {
        let value = self.programs[self.entry].value(id);
        let none = || HostTensor::from_f32([0, value.cols], value.kind.dtype(&self.limits), &[]);
        self.values[id.index()].clone().unwrap_or_else(none)
    }

    fn programs(&self) -> &[Program] {
        &self.programs
    }

    fn order(&self, _: usize, _: usize) -> OrderId {
        OrderId("ascending")
    }

    fn geometries(&self) -> &[KvGeometry] {
        self.kv.geometries()
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        &mut self.kv
    }

    fn memory(&self) -> MemoryReport {
        let bytes = |tensor: &HostTensor| tensor.to_f32().len() * nvllm_core::Tensor::dtype(tensor).size();
        MemoryReport {
            weights: self.weights.iter().map(Weight::bytes).sum(),
            kv: self.kv.bytes(),
            arena: self.values.iter().flatten().map(bytes).sum(),
            scratch: 0,
        }
    }
}
