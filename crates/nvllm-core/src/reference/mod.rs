//! The reference backend: naive, scalar, f32, obviously right. The oracle to which every other
//! backend is held.
//!
//! Every value is a plain vector of f32. Under `Activations::Bf16` each op's output is rounded to
//! bf16 and kept as f32, so that the rounding points of a bf16 backend can be reproduced exactly.
//! Nothing is planned, packed or shared.

mod kv;
mod ops;

use crate::host::{Batch, Forward, HostExecutable, memory_bytes};
use crate::program::{MemoryPlan, Node, Program};
use crate::{
    Activations, Backend, BackendInfo, DType, Executable, HostTensor, KvCache, KvGeometry, Limits,
    MemoryReport, ModelSpec, OpQuery, OrderId, Plan, PlanRules, Reason, Result, ValueId, ValueKind, Weight,
    WeightDecl, WeightSource,
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
            memory_bytes: memory_bytes(),
            memory_share: BackendInfo::HOST_MEMORY_SHARE,
            seqs: BackendInfo::HOST_SEQS,
            step_tokens: 512,
            max_in_flight: 1,
            driver: None,
            clocks_mhz: None,
        }
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        let fused = query.op.is_fused();
        if fused { Err(Reason("it runs primitives; fused ops are expanded".into())) } else { Ok(()) }
    }

    fn plan_rules(&self) -> PlanRules {
        PlanRules::HOST
    }

    fn plan(&self, spec: &ModelSpec, source: &dyn WeightSource, limits: &Limits) -> Result<Plan> {
        let mut plan = Plan::new(self, spec, source, limits)?;
        let held = plan.spec.weights.iter().zip(&plan.weights).map(|(decl, info)| held(decl, info.bytes()));
        plan.memory.weights = held.fold(0, usize::saturating_add);
        plan.memory.kv = plan.kv.iter().map(ReferenceKv::bytes_for).fold(0, usize::saturating_add);
        // Every value is f32 and has memory of its own.
        let wide = Limits { activations: Activations::F32, ..limits.clone() };
        plan.values = plan
            .spec
            .programs
            .iter()
            .map(|program| MemoryPlan::new(program, &wide, &PlanRules::HOST))
            .collect::<Result<_>>()?;
        let all_values = |program: &Program| {
            let bytes = program.values.iter().filter_map(|value| value.max_bytes(&wide));
            bytes.fold(0, usize::saturating_add)
        };
        plan.memory.arena = plan.spec.programs.iter().map(all_values).max().unwrap_or(0);
        Ok(plan)
    }

    fn load(&self, plan: Plan, source: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        let Plan { spec, limits, kv, .. } = plan;
        let weights =
            spec.weights.iter().map(|decl| Weight::load(decl, source)).collect::<Result<Vec<_>>>()?;
        let decoded = weights.iter().map(ops::Decoded::of).collect::<Result<Vec<_>>>()?;
        let run = Run {
            programs: spec.programs,
            weight_bytes: weights.iter().map(|weight| held(&weight.decl, weight.bytes())).sum(),
            weights: decoded,
            kv: ReferenceKv::new(kv)?,
            limits: limits.clone(),
            observer: self.observer.clone(),
            values: Vec::new(),
            entry: 0,
        };
        Ok(Box::new(HostExecutable::new(run, &limits, spec.vocab_size)))
    }
}

/// Bytes of a weight: as the checkpoint has it, and decoded.
fn held(decl: &WeightDecl, bytes: usize) -> usize {
    bytes + size_of::<f32>() * decl.num_elements()
}

struct Run {
    programs: Vec<Program>,
    weights: Vec<ops::Decoded>,
    weight_bytes: usize,
    kv: ReferenceKv,
    limits: Limits,
    observer: Option<Observer>,
    /// Values of the last step, by id.
    values: Vec<Vec<f32>>,
    entry: usize,
}

impl Forward for Run {
    fn begin(&mut self, entry: usize, _: &Batch) {
        self.entry = entry;
        self.values = vec![Vec::new(); self.programs[entry].values.len()];
    }

    fn run(&mut self, node: usize, batch: &Batch) -> Result<()> {
        let program = &self.programs[self.entry];
        let node = &program.nodes[node];
        let inputs: Vec<&[f32]> = node.inputs.iter().map(|id| self.values[id.index()].as_slice()).collect();
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
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        self.programs[self.entry].logits().map_or(&[], |id| &self.values[id.index()])
    }

    fn value(&self, id: ValueId) -> HostTensor {
        let (value, data) = (self.programs[self.entry].value(id), &self.values[id.index()]);
        let dtype = value.kind.dtype(&self.limits);
        HostTensor::from_f32([data.len() / value.cols, value.cols], dtype, data)
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
        let arena = self.values.iter().map(|v| DType::F32.size() * v.len()).sum();
        MemoryReport { weights: self.weight_bytes, kv: self.kv.bytes(), arena, scratch: 0 }
    }
}
