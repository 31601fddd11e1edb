//! The trait of a backend: what it says of itself, how it plans a model, and how it loads one.

use crate::kv_format::listed;
use crate::program::MemoryPlan;
use crate::{
    CoreError, Executable, KvFormat, KvGeometry, Limits, MemoryReport, ModelSpec, Op, OpQuery, Plan,
    PlanRules, Program, Reason, Result, WeightInfo, WeightSource,
};

/// What a backend says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendInfo {
    /// Its name on the command line.
    pub name: String,
    /// The device, in words.
    pub device: String,
    /// Memory it can use, in bytes.
    pub memory_bytes: usize,
    /// Default share of [`memory_bytes`](Self::memory_bytes) that a loaded model takes, if one full
    /// sequence needs no more. Of a device's own memory 0.9, for weights, values, scratch and KV
    /// cache; of the host's 0.5 of what the others leave, for the KV cache.
    pub memory_share: f64,
    /// Sequences at once that suit it, the default of `--max-num-seqs`.
    pub seqs: usize,
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

impl BackendInfo {
    /// [`memory_share`](Self::memory_share) of host backends.
    pub const HOST_MEMORY_SHARE: f64 = 0.5;
    /// [`seqs`](Self::seqs) of host backends: with more, each gets a token seldom.
    pub const HOST_SEQS: usize = 16;
}

/// A device that can run programs.
pub trait Backend {
    /// Name, device, memory.
    fn info(&self) -> BackendInfo;
    /// Whether a kernel runs the op. A fused op that has none is expanded into primitives; one that
    /// has is also made from its parts ([`Program::fuse`]).
    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason>;
    /// The rate in bytes a second at which it reads memory now, measured by the call; `None` if it
    /// cannot tell.
    ///
    /// Errors if the measurement fails: beside a large KV cache there may be no memory for it.
    fn measure_read_bandwidth(&self) -> Result<Option<f64>> {
        Ok(None)
    }
    /// Whether it can be asked for [`Limits::exact_head`].
    fn has_exact_head(&self) -> bool {
        false
    }
    /// What its memory allows.
    fn plan_rules(&self) -> PlanRules;
    /// How [`load`](Self::load) will run the model and what it will allocate, known before any
    /// memory is taken. Of scratch it counts what is allocated at load; it reads no weight.
    ///
    /// Errors if the checkpoint does not fit the declarations, an op runs in no form, or no memory
    /// could meet the limits.
    fn plan(&self, spec: &ModelSpec, weights: &dyn WeightSource, limits: &Limits) -> Result<Plan> {
        Plan::new(self, spec, weights, limits)
    }
    /// Loads what this backend has planned: every entry program over one copy of the weights.
    ///
    /// Errors if a tensor is not as planned, or memory does not suffice.
    fn load(&self, plan: Plan, weights: &dyn WeightSource) -> Result<Box<dyn Executable>>;
    /// [`plan`](Self::plan), then [`load`](Self::load).
    ///
    /// Errors as both do.
    fn plan_and_load(
        &self,
        spec: &ModelSpec,
        weights: &dyn WeightSource,
        limits: &Limits,
    ) -> Result<Box<dyn Executable>> {
        self.load(self.plan(spec, weights, limits)?, weights)
    }
}

impl OpQuery<'_> {
    /// The formats of the KV cache with which `backend` would run the op, the rest as it is; none
    /// if the op touches no cache.
    pub fn kv_formats<B: Backend + ?Sized>(&self, backend: &B) -> Vec<KvFormat> {
        let runs = |&kv_format: &KvFormat| {
            let limits = Limits { kv_format, ..self.limits.clone() };
            backend.supports(&OpQuery { limits: &limits, ..*self }).is_ok()
        };
        KvFormat::ALL.into_iter().filter(|_| self.op.kv().is_some()).filter(runs).collect()
    }
}

impl Plan {
    /// The plan of a backend that keeps weights as the checkpoint has them and needs no scratch;
    /// other backends change [`memory`](Self::memory).
    ///
    /// Errors as [`Backend::plan`].
    pub fn new<B: Backend + ?Sized>(
        backend: &B,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        limits: &Limits,
    ) -> Result<Self> {
        limits.check()?;
        if limits.exact_head && !backend.has_exact_head() {
            let name = backend.info().name;
            let problem = format!("is given, and the backend `{name}` has none; `cpu` has: leave it out");
            return Err(CoreError::BadLimits { field: "exact_head", problem });
        }
        spec.check_names(source)?;
        let weights =
            spec.weights.iter().map(|decl| WeightInfo::of(decl, source)).collect::<Result<Vec<_>>>()?;
        let programs = legalize(backend, spec, &weights, limits)?;
        let kv = KvGeometry::plan(&spec.kv, limits)?;
        let rules = backend.plan_rules();
        let values = programs
            .iter()
            .map(|program| MemoryPlan::new(program, limits, &rules))
            .collect::<Result<Vec<_>>>()?;
        let sum = |bytes: &mut dyn Iterator<Item = usize>| bytes.fold(0, usize::saturating_add);
        let memory = MemoryReport {
            weights: sum(&mut weights.iter().map(WeightInfo::bytes)),
            kv: sum(&mut kv.iter().map(KvGeometry::bytes)),
            arena: values.iter().map(MemoryPlan::bytes).max().unwrap_or(0),
            scratch: 0,
        };
        let spec = ModelSpec { programs, ..spec.clone() };
        Ok(Self { spec, weights, limits: limits.clone(), kv, values, memory })
    }
}

/// The programs of `spec` in ops that `backend` has kernels for: ops that it runs as one are fused,
/// fused ops that it lacks are expanded.
fn legalize<B: Backend + ?Sized>(
    backend: &B,
    spec: &ModelSpec,
    weights: &[WeightInfo],
    limits: &Limits,
) -> Result<Vec<Program>> {
    let supports = |op: &Op| backend.supports(&OpQuery { op, weights, limits });
    let unsupported = |op: &Op, reason: Reason| {
        let formats = OpQuery { op, weights, limits }.kv_formats(backend);
        let backend = backend.info().name;
        if !formats.is_empty() {
            let problem = format!("is {}; {} are supported on {backend}", limits.kv_format, listed(&formats));
            return CoreError::BadLimits { field: "kv_format", problem };
        }
        let coded = op.weights().into_iter().find(|id| weights[id.index()].plain().is_err());
        match coded {
            Some(id) => spec.weights[id.index()].refused(backend, reason),
            None => CoreError::Unsupported { backend, op: op.stem().into(), reason: reason.0 },
        }
    };
    spec.programs
        .iter()
        .map(|program| {
            let program = program
                .fuse(|op| !spec.unfused.contains(&op.stem()) && supports(op).is_ok())?
                .expand(|op| supports(op).is_err())?;
            for node in &program.nodes {
                supports(&node.op).map_err(|reason| unsupported(&node.op, reason))?;
            }
            Ok(program)
        })
        .collect()
}
