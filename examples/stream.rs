//! Embeds the engine in a program, and prints an answer as it comes.
//!
//! `cargo run --release -p nvllm-tests --example stream -- [DIRECTORY] [PROMPT]`; the demo model if
//! no directory is named.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use nvllm_core::{SamplingParams, TokenId};
use nvllm_cpu::{CpuBackend, PoolConfig};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::text::EncodeOptions;
use nvllm_engine::{Engine, EngineError, Event, LoadOptions, Model, Request};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/nvllm-tiny");

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| DEMO.into());
    let prompt = args.next().unwrap_or_else(|| "Once upon a time".into());
    answer(Path::new(&dir), &prompt, 64, &mut std::io::stdout().lock())
}

/// Writes what the model in `dir` makes of a prompt, piece by piece.
fn answer(dir: &Path, prompt: &str, max_tokens: usize, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let model = Arc::new(Model::open(&ModelFiles::in_directory(dir)?)?);
    // The engine makes its backend itself, on the thread that will own the device.
    let backend = || match CpuBackend::new(&PoolConfig::default()) {
        Ok(cpu) => Ok(Box::new(cpu) as Box<_>),
        Err(error) => Err(EngineError::Backend { reason: error.to_string() }),
    };
    let options = LoadOptions { max_model_len: Some(512), ..LoadOptions::default() };
    let engine = Engine::builder(Arc::clone(&model), backend).options(options).start()?;

    let tokens = model.tokenizer()?.encode(prompt, EncodeOptions::default())?;
    let sampling = SamplingParams {
        temperature: 0.8,
        seed: 7,
        stop_tokens: model.eos.clone(),
        ..SamplingParams::default()
    };
    let request = Request {
        prompt: tokens.into_iter().map(TokenId).collect(),
        sampling,
        max_tokens: Some(max_tokens),
        ..Request::default()
    };
    write!(out, "{prompt}")?;
    // Dropping the stream ends the request.
    for event in engine.stream(request)? {
        match event {
            Event::Token { text, .. } => write!(out, "{text}")?,
            Event::Finished(finished) => writeln!(out, "{}\n({:?})", finished.text, finished.reason)?,
            Event::PromptRow { .. } | Event::Embedding { .. } => {}
        }
        out.flush()?;
    }
    Ok(())
}

#[test]
fn it_streams_an_answer_to_its_end() {
    let mut out = Vec::new();
    answer(Path::new(DEMO), "Once upon a time", 8, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("Once upon a time") && text.ends_with("\n(Length)\n"), "{text}");
}
