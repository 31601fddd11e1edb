//! `nvllm verify`'s proof through scheduler and engine: company changes no bit, on every backend,
//! for dense models, sliding windows and routed experts.

use std::path::Path;
use std::sync::Arc;

use nvllm_core::{Activations, Backend, Reference};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::verify::{VerifyOptions, VerifyReport, verify};
use nvllm_engine::{EngineError, LoadOptions, Model, Result};
use nvllm_tests::{golden_dir, model_dir};

/// Windows shorter than most prompts, and routed experts.
const FIXTURES: [&str; 2] = ["f_qwen3_sliding", "h1_qwen3moe_norm"];

type Factory = fn() -> Result<Box<dyn Backend>>;

const REFERENCE: Factory = || Ok(Box::new(Reference::default()));

const CPU: Factory = || Ok(Box::new(nvllm_tests::cpu()));

const CUDA: Factory = || match nvllm_tests::cuda(true) {
    Ok(backend) => Ok(Box::new(backend)),
    Err(reason) => Err(EngineError::Backend { reason: reason.to_string() }),
};

fn report(dir: &Path, backend: Factory, options: &VerifyOptions) -> VerifyReport {
    let model = Arc::new(Model::open(&ModelFiles::in_directory(dir).unwrap()).unwrap());
    verify(&model, &Arc::new(backend), options, &mut |_| {}).unwrap()
}

fn check(dir: &Path, backend: Factory, activations: Activations, quick: bool) -> VerifyReport {
    let load = LoadOptions { activations: Some(activations), ..LoadOptions::default() };
    let report = report(dir, backend, &VerifyOptions { load, quick, ..VerifyOptions::default() });
    assert!(report.is_equal(), "{} {activations:?} on {}:\n{report}", report.model, report.backend);
    report
}

fn check_all(backend: Factory) {
    for name in FIXTURES {
        check(&golden_dir().join(name), backend, Activations::F32, true);
        check(&golden_dir().join(name), backend, Activations::Bf16, true);
    }
    check(&model_dir(), backend, Activations::Bf16, false);
}

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
