//! Every fixture against Hugging Face.

use nvllm_core::Reference;
use nvllm_tests::checks::fixtures::{check_bf16, check_f32};

#[test]
fn reference_f32() {
    check_f32(&Reference::default());
}

#[test]
fn cpu_f32() {
    check_f32(&nvllm_tests::cpu());
}

#[test]
fn cuda_f32() {
    nvllm_tests::on_cuda(|cuda| check_f32(cuda));
}

#[test]
fn cpu_bf16() {
    check_bf16(&nvllm_tests::cpu());
}

#[test]
fn cuda_bf16() {
    nvllm_tests::on_cuda(|cuda| check_bf16(cuda));
}
