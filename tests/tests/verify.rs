//! `nvllm verify`'s proof on the backends.

use nvllm_core::{Activations, Reference};
use nvllm_engine::EngineError;
use nvllm_tests::checks::verify::{FIXTURES, Factory, check, check_all};
use nvllm_tests::{golden_dir, model_dir};

const REFERENCE: Factory = || Ok(Box::new(Reference::default()));

const CPU: Factory = || Ok(Box::new(nvllm_tests::cpu()));

const CUDA: Factory = || match nvllm_tests::cuda(true) {
    Ok(backend) => Ok(Box::new(backend)),
    Err(reason) => Err(EngineError::Backend { reason: reason.to_string() }),
};

#[test]
fn on_the_reference() {
    for name in FIXTURES {
        check(&golden_dir().join(name), REFERENCE, Activations::F32, true);
    }
}

#[test]
fn on_the_cpu() {
    check_all(CPU);
}

#[test]
fn on_cuda() {
    nvllm_tests::on_cuda(|_| check_all(CUDA));
}

/// Counts in the evidence that hang on when a request came are left out.
#[test]
fn the_table_reads_well() {
    let mut report = check(&model_dir(), CPU, Activations::Bf16, true);
    for row in &mut report.rows {
        row.evidence = row.evidence.replace(|c: char| c.is_ascii_digit(), "");
    }
    insta::assert_snapshot!(report);
}
