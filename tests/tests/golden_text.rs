//! The demo model's greedy runs.

use nvllm_core::Reference;
use nvllm_cpu::{CpuBackend, Isa, PoolConfig};
use nvllm_tests::checks::text::{check_bf16, check_f32};

#[test]
fn reference_f32() {
    check_f32(&Reference::default());
}

#[test]
fn reference_bf16() {
    check_bf16(&Reference::default());
}

#[test]
fn cpu_f32() {
    check_f32(&nvllm_tests::cpu());
}

#[test]
fn cpu_bf16() {
    // One of each summation order that this machine has.
    for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512Bf16]
        .into_iter()
        .rev()
        .filter(|isa| isa.missing().is_none())
        .take(2)
    {
        check_bf16(&CpuBackend::with_isa(&PoolConfig::default(), isa).unwrap());
    }
}

#[test]
fn cuda_f32() {
    nvllm_tests::on_cuda(|cuda| check_f32(cuda));
}

#[test]
fn cuda_bf16() {
    nvllm_tests::on_cuda(|cuda| check_bf16(cuda));
}
