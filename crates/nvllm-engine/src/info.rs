//! What is known of a model that is loaded, and of one that is being loaded.

use nvllm_core::{BackendInfo, Limits, MemoryReport, RequestLimits, WeightInfo};

/// What was loaded, and under which limits.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// The backend's word on itself, after loading.
    pub backend: BackendInfo,
    /// The limits in force.
    pub limits: Limits,
    /// Shapes and formats of the weights as they are loaded, by id.
    pub weights: Vec<WeightInfo>,
    /// What the backend takes from one request.
    pub request_limits: RequestLimits,
    /// What the backend holds.
    pub memory: MemoryReport,
}

/// How far loading has come, in bytes of weights.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress {
    /// Read so far.
    pub done: usize,
    /// To read.
    pub total: usize,
}
