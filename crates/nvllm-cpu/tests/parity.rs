//! The backend against the reference: every op, with every instruction set of this machine. What it
//! lacks is skipped, with the reason.

use nvllm_cpu::{CpuBackend, CpuError, Isa, PoolConfig};

fn backend(isa: Isa) -> Result<CpuBackend, CpuError> {
    CpuBackend::with_isa(&PoolConfig::default(), isa)
}

nvllm_conformance::conformance_where_found!(scalar, || backend(Isa::Scalar));
nvllm_conformance::conformance_where_found!(avx2, || backend(Isa::Avx2));
nvllm_conformance::conformance_where_found!(avx512, || backend(Isa::Avx512));
nvllm_conformance::conformance_where_found!(avx512_bf16, || backend(Isa::Avx512Bf16));
