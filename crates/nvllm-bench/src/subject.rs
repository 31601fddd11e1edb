//! What is measured: a model, and what makes the backend that runs it.

use std::path::PathBuf;
use std::sync::Arc;

use nvllm_core::Backend;
use nvllm_engine::Model;

use crate::Result;

/// What makes the backend that is measured, as often as it is asked.
pub type Factory = Arc<dyn Fn() -> nvllm_engine::Result<Box<dyn Backend>> + Send + Sync>;

/// The model that is measured.
pub struct Subject {
    /// What records call it.
    pub name: String,
    /// Of its weights, hexadecimal.
    pub sha256: String,
    /// Where it lies, if it lies on disk.
    pub dir: Option<PathBuf>,
    /// Seed of random weights.
    pub seed: Option<u64>,
    /// Opens it. Not held open throughout: pages that a process maps cannot be driven out of the
    /// page cache.
    pub open: Box<dyn Fn() -> Result<Model>>,
}
