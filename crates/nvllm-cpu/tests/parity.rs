//! The backend against the reference: every op, with every instruction set of this machine.

use nvllm_cpu::{CpuBackend, Isa, Kernels, PoolConfig};

fn backend(isa: Isa) -> CpuBackend {
    // What this machine lacks is run as the best that it has, and says so.
    let kernels = Kernels::of(isa).unwrap_or_else(|e| {
        let best = Kernels::best();
        println!("skipped {isa}: {e}; running {} instead", best.isa());
        best
    });
    CpuBackend::with_isa(&PoolConfig::default(), kernels.isa()).expect("a pool")
}

nvllm_conformance::conformance!(scalar, || backend(Isa::Scalar));
nvllm_conformance::conformance!(avx2, || backend(Isa::Avx2));
nvllm_conformance::conformance!(avx512, || backend(Isa::Avx512));
nvllm_conformance::conformance!(avx512_bf16, || backend(Isa::Avx512Bf16));
