//! What end-to-end tests share: golden fixtures, and a session that drives a backend step by step without a scheduler, so
//! that a failing test points at a backend or a model and at nothing else.

mod fixture;
mod golden;
mod session;

pub use fixture::{Fixture, Sequence, golden_dir, model_dir};
pub use golden::{Distance, QWEN3_FIXTURES, Values};
pub use session::{Layout, Part, Session, argmax, limits};

/// The CPU backend on the process's pool.
pub fn cpu() -> nvllm_cpu::CpuBackend {
    nvllm_cpu::CpuBackend::new(&nvllm_cpu::PoolConfig::default()).expect("a pool")
}
