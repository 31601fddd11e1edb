//! GPUs that are planned for without being there.

use nvllm_core::{
    Backend, BackendInfo, CoreError, Executable, Limits, ModelSpec, OpQuery, Plan, PlanRules, Reason, Result,
    WeightSource,
};

use crate::backend::{MEMORY_SHARE, SEQS, STEP_TOKENS};
use crate::lower;
use crate::plan::{self, RULES};

/// What planning has to know of a kind of GPU. As a backend it plans as
/// [`CudaBackend`](crate::CudaBackend) does on such a GPU with nothing else on it, and loads
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceProfile {
    /// The driver's name for it.
    pub name: &'static str,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Memory that is free once a context exists, in bytes, as CUDA 13.0 reported it on one such
    /// GPU (`memory_bytes` of the startup records in `bench/records`).
    pub free_bytes: usize,
}

impl DeviceProfile {
    /// H100 SXM, 80 GB.
    pub const H100: Self =
        Self { name: "NVIDIA H100 80GB HBM3", capability: (9, 0), free_bytes: 84_462_993_408 };
    /// H200 SXM, 141 GB.
    pub const H200: Self = Self { name: "NVIDIA H200", capability: (9, 0), free_bytes: 149_557_477_376 };
}

impl Backend for DeviceProfile {
    fn info(&self) -> BackendInfo {
        let (major, minor) = self.capability;
        BackendInfo {
            name: "cuda".into(),
            device: format!("{}, compute capability {major}.{minor}, not on this machine", self.name),
            memory_bytes: self.free_bytes,
            memory_share: MEMORY_SHARE,
            seqs: SEQS,
            step_tokens: STEP_TOKENS,
            max_in_flight: 2,
            driver: Some("none: a device profile".into()),
            clocks_mhz: None,
        }
    }

    fn supports(&self, query: &OpQuery<'_>) -> std::result::Result<(), Reason> {
        plan::supports(query)
    }

    fn plan_rules(&self) -> PlanRules {
        RULES
    }

    /// Counts the workspace of the vendor's library under `Numerics::Fast`: a machine that lacks
    /// the library takes less.
    fn plan(&self, spec: &ModelSpec, weights: &dyn WeightSource, limits: &Limits) -> Result<Plan> {
        plan::plan(self, lower::wants_vendor(limits), spec, weights, limits)
    }

    fn load(&self, _: Plan, _: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        let problem = format!("{} is a device profile: it can be planned for, not loaded on", self.name);
        Err(CoreError::Device { backend: "cuda".into(), problem })
    }
}
