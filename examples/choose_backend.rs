//! Chooses a backend at run time: the first of those that are named here that this machine has.
//!
//! `cargo run --release -p nvllm-tests --example choose_backend -- [cuda|cpu|reference]..`; all,
//! the fastest first, if none is named.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use nvllm_core::{Backend, Reference, TokenId};
use nvllm_cpu::{CpuBackend, PoolConfig};
use nvllm_cuda::{CudaBackend, CudaOptions};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{Engine, EngineError, LoadOptions, Model, Request};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/nvllm-tiny");

fn main() -> Result<(), Box<dyn Error>> {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        names = ["cuda", "cpu", "reference"].map(String::from).to_vec();
    }
    run(&names, &mut std::io::stdout().lock())
}

/// Makes a backend by its name. Each is a value behind one trait, and nothing else of a program
/// depends on which it is.
fn backend(name: &str) -> Result<Box<dyn Backend>, String> {
    match name {
        "cuda" => {
            CudaBackend::new(&CudaOptions::default()).map(|b| Box::new(b) as _).map_err(|e| e.to_string())
        }
        "cpu" => CpuBackend::new(&PoolConfig::default()).map(|b| Box::new(b) as _).map_err(|e| e.to_string()),
        "reference" => Ok(Box::new(Reference::default())),
        _ => Err("there is no such backend; use cuda, cpu or reference".into()),
    }
}

/// Generates four tokens on the first of the named backends that can be made.
fn run(names: &[String], out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let mut chosen = None;
    for name in names {
        match backend(name) {
            Ok(backend) => {
                let info = backend.info();
                writeln!(out, "{}: {}", info.name, info.device)?;
                chosen = Some(name.clone());
                break;
            }
            Err(reason) => writeln!(out, "{name}: not here ({reason})")?,
        }
    }
    let Some(name) = chosen else { return Err("none of these backends is here".into()) };
    let model = Arc::new(Model::open(&ModelFiles::in_directory(Path::new(DEMO))?)?);
    let make = move || backend(&name).map_err(|reason| EngineError::Backend { reason });
    let options = LoadOptions { max_model_len: Some(64), ..LoadOptions::default() };
    let engine = Engine::builder(model, make).options(options).start()?;
    let prompt = (10..20).map(TokenId).collect();
    let answer = engine.generate(Request { prompt, max_tokens: Some(4), ..Request::default() })?;
    writeln!(out, "tokens: {:?}", answer.tokens.iter().map(|token| token.0).collect::<Vec<_>>())?;
    Ok(())
}

#[test]
fn the_first_backend_that_is_here_is_taken() {
    let mut out = Vec::new();
    run(&["tpu".into(), "cpu".into(), "reference".into()], &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with("tpu: not here (there is no such backend") && text.contains("\ncpu: "),
        "{text}"
    );
    assert!(!text.contains("reference:") && text.contains("\ntokens: ["), "{text}");
    assert!(run(&["tpu".into()], &mut Vec::new()).is_err());
}
