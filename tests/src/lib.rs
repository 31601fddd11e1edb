//! What end-to-end tests share: golden fixtures, what every backend is held to ([`checks`]), and a
//! session that drives a backend step by step without a scheduler, so that a failing test points at
//! a backend or a model and at nothing else.

use std::path::PathBuf;
use std::sync::OnceLock;

pub mod checks;
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
/// if `graphs`, and run as a pass wherever there is one, however long it takes.
pub fn cuda(graphs: bool) -> nvllm_cuda::Result<nvllm_cuda::CudaBackend> {
    cuda_with(graphs, nvllm_cuda::DecodePass::Always)
}

/// Where [`cuda`]'s kernels and measurements are kept.
pub fn cuda_cache_dir() -> PathBuf {
    std::env::temp_dir().join("nvllm-cuda-test-kernels")
}

/// As [`cuda`], with decode steps run as a pass when `decode_pass` says.
pub fn cuda_with(
    graphs: bool,
    decode_pass: nvllm_cuda::DecodePass,
) -> nvllm_cuda::Result<nvllm_cuda::CudaBackend> {
    let cache_dir = Some(cuda_cache_dir());
    nvllm_cuda::CudaBackend::new(&nvllm_cuda::CudaOptions {
        graphs,
        cache_dir,
        decode_pass,
        ..Default::default()
    })
}

/// The wgpu backend on the first GPU, or on the software adapter where that is all; where there is
/// none, why. All tests of a program share the device, because a software adapter takes long to
/// compile a shader.
pub fn wgpu() -> Result<nvllm_wgpu::WgpuBackend, String> {
    static BACKEND: OnceLock<Result<nvllm_wgpu::WgpuBackend, String>> = OnceLock::new();
    let open = || nvllm_wgpu::WgpuBackend::new(&nvllm_wgpu::WgpuOptions::default());
    BACKEND.get_or_init(|| open().map_err(|error| error.to_string())).clone()
}

/// Runs `test` on the wgpu backend, or prints why it is skipped.
pub fn on_wgpu(test: impl FnOnce(&nvllm_wgpu::WgpuBackend)) {
    match wgpu() {
        Ok(backend) => test(&backend),
        Err(reason) => println!("skipped: {reason}"),
    }
}

/// Runs `test` on the CUDA backend, or prints why it is skipped.
pub fn on_cuda(test: impl FnOnce(&nvllm_cuda::CudaBackend)) {
    match cuda(true) {
        Ok(backend) => test(&backend),
        Err(reason) => println!("skipped: {reason}"),
    }
}
