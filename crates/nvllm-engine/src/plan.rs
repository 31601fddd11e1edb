//! What loading a model takes, known before any memory is taken: what `nvllm plan` prints, and what
//! loading is held to.

use nvllm_core::limits::MAX_BYTES;
use nvllm_core::{Backend, BackendInfo, CoreError, Limits, MemoryReport, Plan};

use crate::options::{kv_bytes, tokens_in};
use crate::{LoadOptions, Model, Result};

/// Sequences below which their number is not lowered for want of memory.
const FEW_SEQS: usize = 16;

/// A model on a device, under the limits that options ask for.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The device.
    pub backend: BackendInfo,
    /// How the model will be loaded, under which limits, and what that takes.
    pub plan: Plan,
    /// Bytes of one block of the KV cache, over all its groups.
    pub block_bytes: usize,
    /// What to change, if it does not fit.
    advice: Option<String>,
}

impl LoadPlan {
    /// Plans `model` on `backend`. If nobody says otherwise, the KV cache gets the backend's share
    /// of memory, or what one sequence needs; what still does not fit is planned for fewer
    /// sequences, and then for a shorter context.
    ///
    /// Errors if the options cannot be met on any device, or the checkpoint does not fit the model.
    /// What is only too much for this device is a plan that [does not fit](Self::fits).
    pub fn new(options: &LoadOptions, model: &Model, backend: &dyn Backend) -> Result<Self> {
        let may_halve = options.max_num_seqs.is_none();
        let mut options = options.clone();
        let mut plan = Self::as_asked(&options, model, backend)?;
        // What goes with each sequence may be too much for a small device.
        while may_halve && !plan.fits() && plan.plan.limits.seqs > FEW_SEQS {
            options.max_num_seqs = Some(plan.plan.limits.seqs / 2);
            plan = Self::as_asked(&options, model, backend)?;
        }
        let tokens = plan.most_kv_tokens();
        if plan.fits() || tokens == 0 || options.max_model_len.is_some() || options.kv_cache_bytes.is_some() {
            return Ok(plan);
        }
        let lower =
            LoadOptions { max_model_len: Some(tokens.min(plan.plan.limits.context)), ..options.clone() };
        let lowered = Self::as_asked(&lower, model, backend).ok().filter(Self::fits);
        Ok(lowered.unwrap_or(plan))
    }

    fn as_asked(options: &LoadOptions, model: &Model, backend: &dyn Backend) -> Result<Self> {
        let info = backend.info();
        let memory_share = options.gpu_memory_utilization.unwrap_or(info.memory_share);
        let info = BackendInfo { memory_share, ..info };
        let mut limits = options.limits(model, &info)?;
        let block_bytes = options.block_bytes(model, &limits)?;
        let spec = options.spec(model)?;
        let planned = |limits: &Limits| {
            let plan = backend.plan(&spec, &model.weights(backend, limits)?, limits);
            plan.map_err(|e| options.named(e))
        };
        let mut plan = Self { plan: planned(&limits)?, backend: info, block_bytes, advice: None };
        if options.kv_cache_bytes.is_none() && plan.plan.memory.total() > plan.share() {
            // What the share leaves, but no less than one sequence needs.
            let room = plan.room_in(plan.share());
            limits.kv_bytes = room.max(kv_bytes(1, &limits, block_bytes)).min(limits.kv_bytes);
            plan = Self { plan: planned(&limits)?, ..plan };
        }
        if !plan.fits() {
            plan.advice = Some(plan.advice(options, &|limits| Ok(planned(limits)?.memory)));
        }
        Ok(plan)
    }

    /// Whether the device has the memory.
    pub fn fits(&self) -> bool {
        // A sum past the largest allocation may be one that was cut short.
        self.plan.memory.total() <= self.backend.memory_bytes.min(MAX_BYTES)
    }

    /// Errors if the device has not the memory, with what would fit.
    pub fn check(&self) -> Result<()> {
        let Some(advice) = &self.advice else { return Ok(()) };
        let own_memory = self.backend.driver.is_some();
        let place = if own_memory { "the device" } else { "this machine" }.into();
        let (need, available) = (self.plan.memory, self.backend.memory_bytes);
        Err(CoreError::DoesNotFit { need, available, place, advice: advice.clone() }.into())
    }

    /// Tokens that the planned KV cache holds.
    pub fn kv_tokens(&self) -> usize {
        tokens_in(self.plan.limits.kv_bytes, &self.plan.limits, self.block_bytes)
    }

    /// Tokens of KV cache that fit beside all else.
    pub fn most_kv_tokens(&self) -> usize {
        tokens_in(self.room(), &self.plan.limits, self.block_bytes)
    }

    /// Bytes that the model takes in all, if nobody says otherwise.
    fn share(&self) -> usize {
        let BackendInfo { memory_bytes, memory_share, .. } = self.backend;
        let rest = MemoryReport { kv: 0, ..self.plan.memory }.total().min(memory_bytes);
        // The host's memory is others' too, but weights that are there need a cache beside them.
        let taken = if self.backend.driver.is_some() { 0 } else { rest };
        taken + ((memory_bytes - taken) as f64 * memory_share) as usize
    }

    /// Size of the KV cache, as limits count it, that fits beside all else.
    fn room(&self) -> usize {
        self.room_in(self.backend.memory_bytes)
    }

    /// The same in `bytes` of memory.
    fn room_in(&self, bytes: usize) -> usize {
        let rest = MemoryReport { kv: 0, ..self.plan.memory }.total();
        scaled(bytes.saturating_sub(rest), self.planned_kv(), self.plan.memory.kv)
    }

    /// Bytes of the planned KV cache's blocks. A backend that stores elements wider than their
    /// dtype needs more.
    fn planned_kv(&self) -> usize {
        self.plan.limits.kv_bytes.checked_div(self.block_bytes).unwrap_or(0) * self.block_bytes
    }

    fn advice(&self, options: &LoadOptions, need: &dyn Fn(&Limits) -> Result<MemoryReport>) -> String {
        let (limits, block, memory) = (&self.plan.limits, self.block_bytes, self.backend.memory_bytes);
        if self.plan.memory.weights >= memory {
            return "the weights alone are more than that: use a smaller model".into();
        }
        let room = self.room();
        if room >= kv_bytes(1, limits, block) {
            return format!("give a --kv-cache-bytes of {room} or less");
        }
        let tokens = self.most_kv_tokens();
        if limits.block_len > limits.context {
            return format!("give a --block-size of {} or less", limits.context);
        }
        let least = scaled(kv_bytes(1, limits, block), self.plan.memory.kv, self.planned_kv());
        let fits = |limits: &Limits| {
            let need = need(limits).map(|need| MemoryReport { kv: least, ..need }.total());
            need.is_ok_and(|total| total <= memory)
        };
        if let Some(smaller) = smaller_steps(options, limits, fits) {
            return smaller;
        }
        match (tokens, options.kv_cache_bytes) {
            (0, _) => "use a smaller model, or a device with more memory".into(),
            (_, None) => format!("give a --max-model-len of {tokens} or less"),
            (_, Some(_)) => {
                format!("give a --max-model-len of {tokens} or less and a --kv-cache-bytes of {room} or less")
            }
        }
    }
}

/// `bytes` times `to` over `from`, or the address space if that is less.
fn scaled(bytes: usize, to: usize, from: usize) -> usize {
    if to == from || from == 0 {
        return bytes;
    }
    usize::try_from(bytes as u128 * to as u128 / from as u128).unwrap_or(usize::MAX)
}

/// What to say if steps of half, a quarter, .. of the tokens or the sequences would fit.
fn smaller_steps(options: &LoadOptions, limits: &Limits, fits: impl Fn(&Limits) -> bool) -> Option<String> {
    let halves = |n: usize| std::iter::successors(Some(n / 2), |n| Some(n / 2)).take_while(|n| *n > 0);
    let fewer_tokens = |step_tokens| {
        let step_outputs = options.step_outputs(step_tokens, limits.seqs);
        Limits { step_tokens, step_outputs, ..limits.clone() }
    };
    let fewer_seqs = |seqs| {
        let step_outputs = options.step_outputs(limits.step_tokens, seqs);
        Limits { seqs, step_outputs, ..limits.clone() }
    };
    let tokens = halves(limits.step_tokens).find(|&n| fits(&fewer_tokens(n)));
    let seqs = || halves(limits.seqs).find(|&n| fits(&fewer_seqs(n)));
    tokens
        .map(|n| format!("give a --max-num-batched-tokens of {n} or less"))
        .or_else(|| seqs().map(|n| format!("give a --max-num-seqs of {n} or less")))
}
