//! An adapter that is planned for without being there.

use nvllm_core::{
    Backend, BackendInfo, CoreError, Executable, Limits, ModelSpec, OpQuery, Plan, PlanRules, Reason, Result,
    WeightSource,
};

use crate::adapter::AdapterFacts;
use crate::backend::info;
use crate::plan;

/// What planning has to know of an adapter. As a backend it answers as
/// [`WgpuBackend`](crate::WgpuBackend) does on such an adapter, and loads nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterProfile(AdapterFacts);

impl AdapterProfile {
    /// A discrete GPU as drivers for Vulkan show those of a desktop.
    pub fn desktop() -> Self {
        Self(AdapterFacts {
            index: 0,
            name: "a discrete GPU, not on this machine".into(),
            api: "Vulkan",
            kind: "discrete GPU",
            is_cpu: false,
            driver: "none: an adapter profile".into(),
            memory_bytes: 8 << 30,
            max_binding: 1 << 31,
            piece_bytes: 1 << 31,
            max_buffer: 1 << 31,
            max_bindings: 16,
            workgroup_bytes: 32 << 10,
            workgroup_size: 1024,
            subgroup: [32, 64],
            features: Vec::new(),
        })
    }
}

impl Backend for AdapterProfile {
    fn info(&self) -> BackendInfo {
        info(&self.0)
    }

    fn supports(&self, query: &OpQuery<'_>) -> std::result::Result<(), Reason> {
        plan::supports(&self.0, query)
    }

    fn plan_rules(&self) -> PlanRules {
        plan::rules(&self.0)
    }

    fn plan(&self, spec: &ModelSpec, source: &dyn WeightSource, limits: &Limits) -> Result<Plan> {
        plan::plan(self, &self.0, spec, source, limits)
    }

    fn load(&self, _: Plan, _: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        let problem = "an adapter profile can be planned for, not loaded on".to_owned();
        Err(CoreError::Device { backend: "wgpu".into(), problem })
    }
}
