//! The two traits that a backend implements.

use crate::program::Counts;
use crate::{
    Activations, CoreError, DType, EntryId, ExactHeadCounts, HostTensor, KvCache, Limits, MemoryReport,
    ModelSpec, Numerics, OpQuery, Plan, PlanRules, Program, Reason, RequestLimits, Result, Stage, Step,
    StepOutput, StepProfile, Ticket, TokenMasks, WeightSource,
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
    /// The rate in multiplications and additions a second at which the kernel of its own `linear`
    /// op, in a shape that suits it, multiplies weights of dtype `weights` under `activations` now,
    /// measured by the call; `None` if it cannot tell.
    ///
    /// It bounds what a prefill can reach with these kernels, not what the device could. Errors as
    /// [`measure_read_bandwidth`](Self::measure_read_bandwidth).
    fn measure_matmul_rate(&self, weights: DType, activations: Activations) -> Result<Option<f64>> {
        let _ = (weights, activations);
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

/// A backend that plans every model with these `numerics`, whatever the limits say: checks that
/// were written for one setting run under the other.
pub struct WithNumerics<'a> {
    /// The backend that plans and loads.
    pub backend: &'a dyn Backend,
    /// The setting.
    pub numerics: Numerics,
}

impl Backend for WithNumerics<'_> {
    fn info(&self) -> BackendInfo {
        self.backend.info()
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        self.backend.supports(query)
    }

    fn has_exact_head(&self) -> bool {
        self.backend.has_exact_head()
    }

    fn plan_rules(&self) -> PlanRules {
        self.backend.plan_rules()
    }

    fn plan(&self, spec: &ModelSpec, weights: &dyn WeightSource, limits: &Limits) -> Result<Plan> {
        let limits = Limits { numerics: self.numerics, ..limits.clone() };
        self.backend.plan(spec, weights, &limits)
    }

    fn load(&self, plan: Plan, weights: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        self.backend.load(plan, weights)
    }
}

/// A loaded model. Lives on one thread.
pub trait Executable {
    /// Launches the step and does not wait for a device. A host backend runs it at once.
    ///
    /// Errors if the step does not fit the limits or its program, or while an earlier one awaits
    /// masks; state is then as before.
    fn submit(&mut self, step: &Step) -> Result<Ticket>;
    /// Supplies the masks of all rows of a step that await one, which are then sampled.
    ///
    /// Errors if the step awaits none, or a mask is for a row that awaits none.
    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()>;
    /// Waits for a step's results. Steps are collected in the order of submission.
    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput>;
    /// An entry program as it runs: fused and expanded. `None` if there is no such entry.
    fn program(&self, entry: EntryId) -> Option<&Program>;
    /// The stages in which an entry program runs a step of these extents, in order, every node in
    /// one of them. Empty if there is no such entry.
    fn schedule(&self, entry: EntryId, counts: &Counts) -> Vec<Stage>;
    /// The physical KV cache.
    fn kv_cache(&mut self) -> &mut dyn KvCache;
    /// The labelled, kept value as the last step left it, `[rows, cols]`; `None` if no value of
    /// that label is kept.
    ///
    /// Errors if the device cannot hand it out.
    fn kept(&self, label: &str) -> Result<Option<HostTensor>>;
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
    /// Does one piece of work that makes later steps faster and that loading does not wait for,
    /// such as recording a graph: what a step has lacked, or with `idle` whatever is left. False
    /// if there was nothing to do.
    ///
    /// Called between steps. No result depends on it, and what fails here only stays slow; errors
    /// if the device has failed.
    fn prepare(&mut self, idle: bool) -> Result<bool> {
        let _ = idle;
        Ok(false)
    }
    /// Runs the sequences of a collected `step` again, op by op, and names the first op that makes
    /// NaN or infinity; `None` if none does, or the backend cannot tell. All tokens are named by
    /// the host; no slot is reset and no block copied.
    ///
    /// Slots are as before, and the KV cache holds what it held; [`kept`](Self::kept) values are of
    /// this pass. Slow: for the message of a request
    /// that ends by it.
    fn find_unusable(&mut self, step: &Step) -> Result<Option<String>> {
        let _ = step;
        Ok(None)
    }
    /// What came of [`Limits::exact_head`] since loading.
    fn exact_head(&self) -> ExactHeadCounts {
        ExactHeadCounts::default()
    }
    /// Bytes of inputs that the last step copied to a device; 0 on the host.
    fn input_bytes(&self) -> usize {
        0
    }
    /// Times every op of the steps submitted from now on, or no longer. Steps that are timed may
    /// run slower.
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
}
