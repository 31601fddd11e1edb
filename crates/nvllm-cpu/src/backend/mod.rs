//! The backend: from a tape to calls of the kernels.

mod arena;
mod coded;
mod elem;
mod head;
mod kv;
mod machine;
mod ops;
mod tables;
mod values;
mod weights;

use std::sync::Arc;

use nvllm_core::host::{Batch, Forward, HostExecutable, memory_bytes};
use nvllm_core::{
    Backend, BackendInfo, CoreError, ExactHeadCounts, Executable, HostTensor, KvCache, KvGeometry, Limits,
    MemoryReport, ModelSpec, Op, OpQuery, OrderId, Plan, PlanRules, Program, Reason, ValueId, WeightSource,
};

use crate::{Cpu, Isa, Kernels, Pool, PoolConfig, SumOrder, measure_read_bandwidth};
use arena::Arena;
use elem::mode;
use head::Head;
use kv::CpuKv;
use tables::StepTables;
use values::Values;
use weights::Weights;

/// The CPU as a backend: the process's pool with the kernels of one instruction set.
pub struct CpuBackend {
    pool: Arc<Pool>,
    kernels: &'static Kernels,
}

/// What a bandwidth measurement reads: several times any last-level cache's share.
const BANDWIDTH_BYTES: usize = 256 << 20;

impl CpuBackend {
    /// The fastest instruction set that this machine has, on the process's pool.
    ///
    /// # Errors
    /// As [`Pool::of_process`].
    pub fn new(config: &PoolConfig) -> crate::Result<Self> {
        Ok(Self::with(Pool::of_process(config)?, Kernels::best()))
    }

    /// A given instruction set.
    ///
    /// # Errors
    /// As [`Pool::of_process`]; [`CpuError::MissingIsa`](crate::CpuError::MissingIsa) if this
    /// machine lacks it.
    pub fn with_isa(config: &PoolConfig, isa: Isa) -> crate::Result<Self> {
        Ok(Self::with(Pool::of_process(config)?, Kernels::of(isa)?))
    }

    /// A pool and kernels of the caller's choice.
    pub fn with(pool: Arc<Pool>, kernels: &'static Kernels) -> Self {
        Self { pool, kernels }
    }
}

impl Backend for CpuBackend {
    fn info(&self) -> BackendInfo {
        let threads = self.pool.num_threads();
        BackendInfo {
            name: "cpu".into(),
            device: format!("{}, {threads} threads, {}", machine::cpu_model(), self.kernels.isa()),
            memory_bytes: memory_bytes(),
            memory_share: BackendInfo::HOST_MEMORY_SHARE,
            seqs: BackendInfo::HOST_SEQS,
            step_tokens: 512,
            max_in_flight: 1,
            driver: None,
            clocks_mhz: None,
        }
    }

    fn measure_read_bandwidth(&self) -> nvllm_core::Result<Option<f64>> {
        Ok(Some(measure_read_bandwidth(&self.pool, self.kernels, BANDWIDTH_BYTES, 3)))
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        let weights = query.op.weights();
        let ordered = matches!(query.op, Op::Linear { .. });
        weights.iter().try_for_each(|&id| weights::check(query.weight(id), ordered))?;
        match query.op {
            Op::PagedAttention { spec, .. } | Op::Attention { spec, .. }
                if !spec.head_dim.is_multiple_of(8) =>
            {
                Err(Reason(format!("head_dim is {}; multiples of 8 are supported", spec.head_dim)))
            }
            Op::LinearAdd { .. } | Op::LinearSiluMul { .. } => {
                Err(Reason("a linear layer and what follows it run one after the other".into()))
            }
            Op::TopK { k, .. } if *k > ops::MAX_EXPERTS_PER_TOKEN => {
                Err(Reason(format!("top-{k} routing; up to {} are supported", ops::MAX_EXPERTS_PER_TOKEN)))
            }
            _ => Ok(()),
        }
    }

    fn has_exact_head(&self) -> bool {
        true
    }

    fn plan_rules(&self) -> PlanRules {
        PlanRules::HOST
    }

    fn plan(&self, spec: &ModelSpec, source: &dyn WeightSource, limits: &Limits) -> nvllm_core::Result<Plan> {
        let mut plan = Plan::new(self, spec, source, limits)?;
        plan.memory.weights = Weights::bytes_for(&plan)? + head::bytes_for(&plan)?;
        Ok(plan)
    }

    fn load(&self, plan: Plan, source: &dyn WeightSource) -> nvllm_core::Result<Box<dyn Executable>> {
        let weights = Weights::load(&self.pool, &plan, source)?;
        let head = Head::load(&self.pool, &plan, &weights)?;
        let Plan { spec, limits, kv, values, memory, .. } = plan;
        let values = Values {
            arena: Arena::new(memory.arena)?,
            programs: spec.programs,
            plans: values,
            weights,
            limits: limits.clone(),
            entry: 0,
            num_rows: [0; 3],
        };
        let run = Run {
            cpu: Cpu::new(Arc::clone(&self.pool), self.kernels),
            kv: CpuKv::new(kv)?,
            tables: StepTables::default(),
            scratch: ops::Scratch::default(),
            head,
            values,
        };
        Ok(Box::new(HostExecutable::new(run, &limits, spec.vocab_size)))
    }
}

/// A loaded model.
struct Run {
    cpu: Cpu,
    kv: CpuKv,
    tables: StepTables,
    scratch: ops::Scratch,
    head: Option<Head>,
    values: Values,
}

impl Forward for Run {
    fn begin(&mut self, entry: usize, batch: &Batch) {
        self.values.entry = entry;
        self.values.num_rows = [batch.tokens.len(), batch.outputs.len(), batch.seqs.len()];
        self.tables.begin(batch);
    }

    fn run(&mut self, node: usize, batch: &Batch) -> nvllm_core::Result<()> {
        let Self { cpu, kv, tables, scratch, head, values } = self;
        let node = &values.program().nodes[node];
        let mut machine = ops::Machine { cpu, kv, tables, scratch, head, values, batch };
        machine.run(node).map_err(|e| CoreError::Unsupported {
            backend: "cpu".into(),
            op: node.op.stem().into(),
            reason: e.to_string(),
        })
    }

    fn logits(&self) -> &[f32] {
        self.values.program().logits().map_or(&[], |id| self.values.words(id))
    }

    fn value(&self, id: ValueId) -> HostTensor {
        let dtype = self.values.program().value(id).kind.dtype(&self.values.limits);
        let (num_rows, cols) = self.values.shape(id);
        HostTensor::from_bytes([num_rows, cols], dtype, self.values.bytes(id).to_vec())
    }

    fn programs(&self) -> &[Program] {
        &self.values.programs
    }

    fn order(&self, entry: usize, node: usize) -> OrderId {
        let op = &self.values.programs[entry].nodes[node].op;
        let products = matches!(op, Op::Linear { .. } | Op::ExpertLinear { .. });
        let mode = mode(self.values.limits.activations);
        // Under bf16 activations the order depends on the weight's dtype as well (coded ones are
        // rounded to bf16), never on the number of rows.
        match self.cpu.kernels.linear_order(crate::Elem::Bf16, mode) {
            SumOrder::Bf16Pairs32 if products => OrderId("cpu-bf16-pairs-32"),
            // Sums of integers have no order.
            _ => OrderId("cpu-fma-16"),
        }
    }

    fn geometries(&self) -> &[KvGeometry] {
        self.kv.geometries()
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        &mut self.kv
    }

    fn exact_head(&self) -> ExactHeadCounts {
        self.head.as_ref().map_or_else(ExactHeadCounts::default, |head| head.counts)
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport {
            weights: self.values.weights.bytes() + self.head.as_ref().map_or(0, Head::bytes),
            kv: self.kv.bytes(),
            arena: self.values.arena.len(),
            scratch: self.cpu.scratch_bytes() + self.tables.bytes() + self.scratch.bytes(),
        }
    }
}
