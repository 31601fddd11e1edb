//! The backend: from a tape to a loaded model on one adapter.

use std::sync::Arc;

use nvllm_core::device::check_fits;
use nvllm_core::{
    Backend, BackendInfo, Executable, Limits, ModelSpec, OpQuery, Plan, PlanRules, Reason, WeightSource,
};

use crate::adapter::AdapterFacts;
use crate::error::Result;
use crate::executable::{Entry, Parts, WgpuExecutable};
use crate::gpu::Gpu;
use crate::inputs::Inputs;
use crate::kv::WgpuKv;
use crate::lower::Lowering;
use crate::options::WgpuOptions;
use crate::plan;
use crate::rates;
use crate::sampler::Sampler;
use crate::slots::DeviceSlots;
use crate::state::DeviceState;
use crate::weights::Weights;

/// One adapter as a backend. Clones share the device and its compiled shaders.
#[derive(Clone)]
pub struct WgpuBackend {
    gpu: Arc<Gpu>,
}

impl WgpuBackend {
    /// Opens the adapter. Shaders are compiled with the first model.
    ///
    /// # Errors
    /// If there is no adapter, none of that name, or it lacks what the shaders need.
    pub fn new(options: &WgpuOptions) -> Result<Self> {
        Ok(Self { gpu: Arc::new(Gpu::open(options)?) })
    }

    /// Seconds of one launch that reads what the one before it wrote, measured by the call.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure_launch_seconds(&self) -> Result<f64> {
        rates::launch_seconds(&self.gpu)
    }

    /// Loses the device, as the driver does that resets it: for tests.
    pub fn destroy(&self) {
        self.gpu.destroy();
    }

    /// What the adapter says of itself.
    pub fn facts(&self) -> &AdapterFacts {
        &self.gpu.facts
    }
}

/// What the rest of the program is told of an adapter.
pub(crate) fn info(facts: &AdapterFacts) -> BackendInfo {
    // Others share memory with the host, and with all that runs there.
    let own_memory = facts.kind == "discrete GPU";
    BackendInfo {
        name: "wgpu".into(),
        device: format!("adapter {}, {}, {}, {}", facts.index, facts.name, facts.api, facts.kind),
        memory_bytes: facts.memory_bytes,
        memory_share: if own_memory { 0.9 } else { BackendInfo::HOST_MEMORY_SHARE },
        seqs: if facts.is_cpu { BackendInfo::HOST_SEQS } else { 64 },
        step_tokens: if facts.is_cpu { 64 } else { 512 },
        max_in_flight: 2,
        driver: Some(facts.driver.clone()),
        clocks_mhz: None,
    }
}

impl Backend for WgpuBackend {
    fn info(&self) -> BackendInfo {
        info(&self.gpu.facts)
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        plan::supports(&self.gpu.facts, query)
    }

    fn measure_read_bandwidth(&self) -> nvllm_core::Result<Option<f64>> {
        Ok(Some(rates::read_bandwidth(&self.gpu)?))
    }

    fn plan_rules(&self) -> PlanRules {
        plan::rules(&self.gpu.facts)
    }

    fn plan(&self, spec: &ModelSpec, source: &dyn WeightSource, limits: &Limits) -> nvllm_core::Result<Plan> {
        plan::plan(self, &self.gpu.facts, spec, source, limits)
    }

    fn load(&self, plan: Plan, source: &dyn WeightSource) -> nvllm_core::Result<Box<dyn Executable>> {
        let gpu = &self.gpu;
        gpu.check()?;
        check_fits(plan.memory, gpu.facts.memory_bytes, &plan.limits, &plan.kv)?;
        let weights = Weights::load(gpu, &plan.spec, source)?;
        let Plan { spec, weights: infos, limits, kv, values, .. } = plan;
        let arena = plan::arena(&values).into_iter().map(|bytes| gpu.storage(bytes, "values between ops"));
        let state = DeviceState {
            arena: arena.collect::<Result<_>>()?,
            weights,
            kv: WgpuKv::new(gpu, &kv)?,
            inputs: Inputs::new(gpu, &spec.programs, &infos, &limits, &kv)?,
            slots: DeviceSlots::new(gpu, &limits, spec.vocab_size)?,
            sampler: Sampler::new(gpu, &limits, spec.vocab_size)?,
            kv_scratch: crate::kv::scratch_bytes(&kv),
        };
        let entry = |(program, plan)| -> Result<Entry> {
            let lowering = Lowering {
                gpu,
                program: &program,
                plan: &plan,
                arena: &state.arena,
                weights: &state.weights,
                inputs: &state.inputs,
                kv: &state.kv,
                limits: &limits,
            };
            let stages = lowering.stages()?;
            let sampling = program.logits().map(|id| {
                let (logits, vocab) = (lowering.value(id), program.value(id).cols);
                state.sampler.lower(gpu, &state.inputs, &state.slots, logits, vocab)
            });
            let sampling = sampling.transpose()?;
            Ok(Entry { program, plan, stages, sampling })
        };
        let entries = spec.programs.into_iter().zip(values).map(entry).collect::<Result<_>>()?;
        let parts = Parts {
            gpu: Arc::clone(gpu),
            vocab_size: spec.vocab_size,
            geometries: kv,
            limits,
            entries,
            state,
        };
        Ok(Box::new(WgpuExecutable::new(parts)?))
    }
}
