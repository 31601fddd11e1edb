//! What end-to-end tests share: golden fixtures, and a session that drives a backend step by step
//! without a scheduler, so that a failing test points at a backend or a model and at nothing else.

mod fixture;
mod golden;
mod session;

pub use fixture::{Fixture, Sequence, golden_dir, in_repository, model_dir, spec_of};
pub use golden::{Distance, FIXTURES, Rounded, Values};
pub use session::{Layout, Part, Session, argmax, limits};

/// The CPU backend on the process's pool.
pub fn cpu() -> nvllm_cpu::CpuBackend {
    nvllm_cpu::CpuBackend::new(&nvllm_cpu::PoolConfig::default()).expect("a pool")
}

/// The CUDA backend on the first GPU; where there is none, why. Decode steps are replayed as graphs
/// if `graphs`.
pub fn cuda(graphs: bool) -> nvllm_cuda::Result<nvllm_cuda::CudaBackend> {
    let cache_dir = Some(std::env::temp_dir().join("nvllm-cuda-test-kernels"));
    nvllm_cuda::CudaBackend::new(&nvllm_cuda::CudaOptions { graphs, cache_dir, ..Default::default() })
}

/// Runs `test` on the CUDA backend, or prints why it is skipped.
pub fn on_cuda(test: impl FnOnce(&nvllm_cuda::CudaBackend)) {
    match cuda(true) {
        Ok(backend) => test(&backend),
        Err(reason) => println!("skipped: {reason}"),
    }
}
