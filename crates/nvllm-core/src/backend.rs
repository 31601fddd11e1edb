//! The two traits that a backend implements.

use std::fmt;

use crate::program::MemoryPlan;
use crate::{
    Activations, AdapterId, ByteCount, CoreError, DType, KvCache, KvGeometry, Limits, ModelSpec, Numerics,
    Op, PlanRules, RequestLimits, Result, SlotId, Step, StepOutput, StepProfile, Tensor, Ticket, TokenMasks,
    WeightInfo, WeightSource,
};

/// Why a backend does not run an op in some shape, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(pub String);

/// Which order a kernel sums in. Kernels with equal ids give equal bits for equal rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrderId(pub &'static str);

/// What a backend says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendInfo {
    /// Its name on the command line.
    pub name: String,
    /// The device, in words.
    pub device: String,
    /// Memory it can use, in bytes.
    pub memory_bytes: usize,
    /// Tokens of a step that suit it: with more, a token hardly gets cheaper.
    pub step_tokens: usize,
    /// Default number of steps in flight: 2 if the device runs one step while the host handles the
    /// results of the previous one, else 1.
    pub max_in_flight: usize,
    /// What drives a device that has memory of its own; none for the host's processor.
    pub driver: Option<String>,
    /// The fastest clocks of such a device's cores and memory, in MHz.
    pub clocks_mhz: Option<[f64; 2]>,
}

/// What is held, exactly for what the backend allocates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryReport {
    /// Weights, in bytes (mapped or copied).
    pub weights: usize,
    /// KV cache, in bytes.
    pub kv: usize,
    /// Values between ops, in bytes.
    pub arena: usize,
    /// Kernel scratch, in bytes.
    pub scratch: usize,
}

impl MemoryReport {
    /// The sum, or the address space if that is less.
    pub fn total(&self) -> usize {
        [self.kv, self.arena, self.scratch].into_iter().fold(self.weights, usize::saturating_add)
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, kv, arena, scratch } = *self;
        write!(
            f,
            "{} (weights {}, KV cache {}, values between ops {}",
            ByteCount(self.total()),
            ByteCount(weights),
            ByteCount(kv),
            ByteCount(arena)
        )?;
        if scratch > 0 {
            write!(f, ", scratch {}", ByteCount(scratch))?;
        }
        f.write_str(")")
    }
}

/// A device that can run programs.
pub trait Backend {
    /// Name, device, memory.
    fn info(&self) -> BackendInfo;
    /// Whether `op` runs natively. What does not is expanded before compiling, on the same device; a fused op that does is also made
    /// from its parts ([`Program::fuse`](crate::Program::fuse)).
    fn supports(&self, op: &Op) -> Result<(), Reason>;
    /// The rate in bytes a second at which it reads memory now, measured by the call; `None` if it cannot tell.
    fn measure_read_bandwidth(&self) -> Option<f64> {
        None
    }
    /// The rate in multiplications and additions a second at which the kernel of its own `linear` op, in a shape that suits
    /// it, multiplies weights of dtype `weights` under `activations` now, measured by the call; `None` if it cannot tell.
    ///
    /// It bounds what a prefill can reach with these kernels, not what the device could.
    fn measure_matmul_rate(&self, weights: DType, activations: Activations) -> Option<f64> {
        let _ = (weights, activations);
        None
    }
    /// What its memory allows.
    fn plan_rules(&self) -> PlanRules;
    /// The summation order of the kernel that runs `op` on `num_rows` rows under `limits`.
    fn order(&self, op: &Op, num_rows: usize, limits: &Limits) -> OrderId;
    /// What [`load`](Self::load) will hold, known before any memory is taken; of scratch what is held from loading on.
    ///
    /// Errors if the checkpoint does not fit the declarations, an op runs in no form, or the limits cannot be met anywhere.
    fn plan(&self, spec: &ModelSpec, weights: &dyn WeightSource, limits: &Limits) -> Result<MemoryReport> {
        plan(self, spec, weights, limits)
    }
    /// Compiles every entry program over one copy of the weights.
    ///
    /// Errors if the checkpoint does not fit the declarations, an op runs in no form, or memory does not suffice.
    fn load(
        &self,
        spec: &ModelSpec,
        weights: &dyn WeightSource,
        limits: &Limits,
    ) -> Result<Box<dyn Executable>>;
}

/// A backend that loads every model under one promise on the order of sums, whatever the limits ask for: how checks that were
/// written for one promise look at the other.
pub struct Under<'a> {
    /// What loads.
    pub backend: &'a dyn Backend,
    /// The promise.
    pub numerics: Numerics,
}

impl Under<'_> {
    fn limits(&self, limits: &Limits) -> Limits {
        Limits { numerics: self.numerics, ..limits.clone() }
    }
}

impl Backend for Under<'_> {
    fn info(&self) -> BackendInfo {
        self.backend.info()
    }

    fn supports(&self, op: &Op) -> Result<(), Reason> {
        self.backend.supports(op)
    }

    fn measure_read_bandwidth(&self) -> Option<f64> {
        self.backend.measure_read_bandwidth()
    }

    fn measure_matmul_rate(&self, weights: DType, activations: Activations) -> Option<f64> {
        self.backend.measure_matmul_rate(weights, activations)
    }

    fn plan_rules(&self) -> PlanRules {
        self.backend.plan_rules()
    }

    fn order(&self, op: &Op, num_rows: usize, limits: &Limits) -> OrderId {
        self.backend.order(op, num_rows, &self.limits(limits))
    }

    fn plan(&self, spec: &ModelSpec, weights: &dyn WeightSource, limits: &Limits) -> Result<MemoryReport> {
        self.backend.plan(spec, weights, &self.limits(limits))
    }

    fn load(
        &self,
        spec: &ModelSpec,
        weights: &dyn WeightSource,
        limits: &Limits,
    ) -> Result<Box<dyn Executable>> {
        self.backend.load(spec, weights, &self.limits(limits))
    }
}

/// A loaded model. Lives on one thread.
pub trait Executable {
    /// Launches the step and does not wait for a device. A host backend runs it at once.
    ///
    /// Errors if the step does not fit the limits, or while an earlier one awaits its masks; state is then as before.
    fn submit(&mut self, step: &Step) -> Result<Ticket>;
    /// Brings the masks of a step that awaits them.
    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()>;
    /// Waits for a step's results. Steps are collected in the order of submission.
    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput>;
    /// The physical KV cache.
    fn kv_cache(&mut self) -> &mut dyn KvCache;
    /// The labelled, kept value as the last step left it, `[rows, cols]`.
    fn kept(&self, label: &str) -> Option<Box<dyn Tensor>>;
    /// What is held.
    fn memory(&self) -> MemoryReport;
    /// Why nothing can run any more, once that is so: the model has to be loaded again.
    fn failure(&self) -> Option<String> {
        None
    }
    /// What it takes from one request; a step with a request beyond that is refused.
    fn request_limits(&self) -> RequestLimits {
        RequestLimits::default()
    }
    /// Times every op of the steps submitted from now on, or no longer. Steps that are timed may run slower.
    ///
    /// Errors if the backend cannot.
    fn set_profiling(&mut self, on: bool) -> Result<()> {
        if !on {
            return Ok(());
        }
        Err(CoreError::Unsupported {
            backend: "this backend".into(),
            op: "a profile by op".into(),
            reason: "it times whole steps only".into(),
        })
    }
    /// Profiles of the steps since the last call, in the order of submission.
    fn take_profiles(&mut self) -> Vec<StepProfile> {
        Vec::new()
    }
    /// Points a slot at a LoRA adapter.
    fn set_adapter(&mut self, slot: SlotId, adapter: Option<AdapterId>) -> Result<()> {
        match adapter {
            None => Ok(()),
            Some(id) => Err(CoreError::Unsupported {
                backend: "this backend".into(),
                op: format!("adapter {id} in slot {slot}"),
                reason: "it loads no adapters".into(),
            }),
        }
    }
}

/// The programs of `spec` as `backend` runs them: ops that it runs as one are made one, fused ops that it lacks are replaced by their
/// expansion.
pub fn lower<B: Backend + ?Sized>(backend: &B, spec: &ModelSpec) -> Result<Vec<crate::Program>> {
    let unsupported = |op: &Op, reason: Reason| CoreError::Unsupported {
        backend: backend.info().name,
        op: op.stem().into(),
        reason: reason.0,
    };
    spec.programs
        .iter()
        .map(|program| {
            let program = program
                .fuse(|op| !spec.unfused.contains(&op.stem()) && backend.supports(op).is_ok())?
                .expand(|op| backend.supports(op).is_err())?;
            for node in &program.nodes {
                backend.supports(&node.op).map_err(|reason| unsupported(&node.op, reason))?;
            }
            Ok(program)
        })
        .collect()
}

/// The plan of a backend that keeps weights as the checkpoint has them and no scratch: [`Backend::plan`] if it is not overridden.
pub fn plan<B: Backend + ?Sized>(
    backend: &B,
    spec: &ModelSpec,
    source: &dyn WeightSource,
    limits: &Limits,
) -> Result<MemoryReport> {
    limits.check()?;
    spec.check_names(source)?;
    let mut report = MemoryReport::default();
    for decl in &spec.weights {
        report.weights = report.weights.saturating_add(WeightInfo::of(decl, source)?.bytes());
    }
    report.kv =
        KvGeometry::plan(&spec.kv, limits)?.iter().map(KvGeometry::bytes).fold(0, usize::saturating_add);
    for program in lower(backend, spec)? {
        report.arena = report.arena.max(MemoryPlan::new(&program, limits, &backend.plan_rules())?.bytes());
    }
    Ok(report)
}
