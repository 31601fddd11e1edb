//! What the device thread does before its first step: it loads the model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use nvllm_core::{Backend, ModelSpec};
use nvllm_sched::{GroupConfig, SchedConfig, Scheduler};

use super::EngineLoop;
use super::active::Active;
use super::masks::Masks;
use super::reading::Reading;
use crate::shared::{Loaded, Shared};
use crate::stats::DeviceTime;
use crate::text_stage::Message;
use crate::validator::Validator;
use crate::{EngineInfo, LoadOptions, LoadPlan, LoadProgress, Model, Result};

impl EngineLoop {
    /// Loads the model, and lets [`Shared`] know what callers need.
    pub(crate) fn load<B>(
        backend: B,
        model: &Model,
        options: &LoadOptions,
        progress: &dyn Fn(LoadProgress),
        stage: Sender<Message>,
        shared: Arc<Shared>,
    ) -> Result<Self>
    where
        B: FnOnce() -> Result<Box<dyn Backend>>,
    {
        let backend = backend()?;
        let plan = LoadPlan::new(options, model, backend.as_ref())?;
        plan.check()?;
        let limits = plan.plan.limits.clone();
        let embeddings = plan.plan.spec.entry(ModelSpec::HIDDEN);
        let source = Reading::new(model, model.weights(backend.as_ref(), &limits)?, progress)?;
        let weights = plan.plan.weights.clone();
        let mut exe = backend.load(plan.plan, &source).map_err(|e| options.named(e))?;
        let cache = exe.kv_cache();
        let geometries = (0..model.spec.kv.len()).map(|group| cache.geometry(group));
        let groups = geometries.map(|kv| GroupConfig { num_blocks: kv.num_blocks, window: kv.window });
        let config = SchedConfig {
            prefix_cache: options.enable_prefix_caching,
            tenant_weights: options.tenants.iter().map(|tenant| tenant.weight).collect(),
            ..SchedConfig::new(&limits, groups.collect(), model.spec.max_positions)
        };
        let sched = Scheduler::new(config.clone())?;
        shared.stats.publish(sched.stats(), DeviceTime::default(), exe.exact_head());
        let request_limits = exe.request_limits();
        let epoch = Instant::now();
        let (backend_info, memory) = (backend.info(), exe.memory());
        let info = EngineInfo { backend: backend_info, limits, weights, request_limits, memory };
        let validator = Validator {
            vocab_size: model.spec.vocab_size,
            request_limits,
            sched: config,
            embeddings,
            epoch,
            tokenizer: model.tokenizer().ok().cloned(),
        };
        let _ = shared.loaded.set(Loaded { info, validator });
        let (in_flight, active) = (VecDeque::new(), Active::default());
        let masks = Masks::new(model.spec.vocab_size);
        Ok(Self {
            epoch,
            device_time: DeviceTime::default(),
            backend,
            exe,
            sched,
            in_flight,
            active,
            masks,
            read_bandwidth: None,
            looked_for_unusable: false,
            stage,
            shared,
        })
    }
}
