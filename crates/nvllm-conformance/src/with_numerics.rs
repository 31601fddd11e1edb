//! One setting of numerics for checks that were written for another.

use nvllm_core::{
    Backend, BackendInfo, Executable, Limits, ModelSpec, Numerics, OpQuery, Plan, PlanRules, Reason, Result,
    WeightSource,
};

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
