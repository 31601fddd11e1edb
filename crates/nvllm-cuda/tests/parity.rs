//! The backend against the reference: every op, launched kernel by kernel and replayed as graphs. Skips, and says why, where there is no
//! GPU.

use nvllm_cuda::{CudaBackend, CudaError, CudaOptions};

fn backend(graphs: bool) -> Result<CudaBackend, CudaError> {
    let cache_dir = Some(std::env::temp_dir().join("nvllm-cuda-test-kernels"));
    CudaBackend::new(&CudaOptions { graphs, cache_dir, ..CudaOptions::default() })
}

nvllm_conformance::conformance_where_found!(eager, || backend(false));
nvllm_conformance::conformance_where_found!(graphs, || backend(true));
