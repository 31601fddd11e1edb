//! `nvllm verify`'s proof through scheduler and engine: company changes no bit, for dense models,
//! sliding windows and routed experts.

use std::path::Path;
use std::sync::Arc;

use nvllm_core::{Activations, Backend};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::verify::{VerifyOptions, VerifyReport, verify};
use nvllm_engine::{LoadOptions, Model, Result};

use crate::{golden_dir, model_dir};

/// Windows shorter than most prompts, and routed experts.
pub const FIXTURES: [&str; 2] = ["f_qwen3_sliding", "h1_qwen3moe_norm"];

/// What makes a backend on the engine's thread.
pub type Factory = fn() -> Result<Box<dyn Backend>>;

fn report(dir: &Path, backend: Factory, options: &VerifyOptions) -> VerifyReport {
    let model = Arc::new(Model::open(&ModelFiles::in_directory(dir).unwrap()).unwrap());
    verify(&model, &Arc::new(backend), options, &mut |_| {}).unwrap()
}

/// Verifies a model's directory, and returns what was shown.
pub fn check(dir: &Path, backend: Factory, activations: Activations, quick: bool) -> VerifyReport {
    let load = LoadOptions { activations: Some(activations), ..LoadOptions::default() };
    let report = report(dir, backend, &VerifyOptions { load, quick, ..VerifyOptions::default() });
    assert!(report.is_equal(), "{} {activations:?} on {}:\n{report}", report.model, report.backend);
    report
}

/// Fixtures quickly, and the demo model in full.
pub fn check_all(backend: Factory) {
    for name in FIXTURES {
        check(&golden_dir().join(name), backend, Activations::F32, true);
        check(&golden_dir().join(name), backend, Activations::Bf16, true);
    }
    check(&model_dir(), backend, Activations::Bf16, false);
}
