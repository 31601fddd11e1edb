//! The accuracy gate: no figure without a backend that computes what it should, in the same
//! program.
//!
//! Two checks, on a model whose answers are known whatever model is measured: the demo model's 16
//! greedy runs token for token under f32 activations, and its perplexity of a text that it never
//! saw under the activations that are measured. A caller who has the repository has held the same
//! source to the golden fixtures before.

use std::sync::Arc;

use nvllm_core::{Activations, Numerics, TokenId};
use nvllm_engine::text::{EncodeOptions, SpecialText};
use nvllm_engine::{Engine, Event, LoadOptions, Model, Request, RequestStream};
use serde::Deserialize;

use crate::held_out::{END_OF_TEXT, documents};
use crate::record::Correctness;
use crate::subject::Factory;
use crate::{BenchError, Result};

/// Golden runs of the demo model by Hugging Face's transformers.
const GOLDEN: &str = include_str!("../../../tests/golden/nvllm-tiny.json");
/// Perplexities of it by Hugging Face's transformers.
const EXPECTED: &str = include_str!("../../../tests/eval/expected.json");

/// How far a perplexity may lie from the one expected: rounding activations to bf16 moves it by far
/// less.
const TOLERANCE: f64 = 0.01;

/// Tokens of a step whose rows are all scored.
const STEP_TOKENS: usize = 512;

/// What the gate needs beside the crate's own data.
pub struct Gate {
    /// What was checked before, of the same source: golden fixtures, where the repository is at
    /// hand.
    pub before: Option<Correctness>,
    /// Opens the demo model.
    pub demo: Box<dyn Fn() -> Result<Model>>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct GateReport {
    /// The verdict.
    pub correctness: Correctness,
    /// Greedy runs equal to the golden ones, and how many there are.
    pub golden: (usize, usize),
    /// Perplexity of the text or its beginning; not computed where the other checks failed.
    pub perplexity: Option<Perplexity>,
}

/// Perplexity of a text.
#[derive(Clone, Copy, Debug)]
pub struct Perplexity {
    /// Tokens that were scored.
    pub tokens: usize,
    /// Whether that is the whole text.
    pub whole: bool,
    /// exp of the mean negative log-likelihood.
    pub value: f64,
    /// The expected value.
    pub expected: f64,
    /// Mean negative log-likelihood of a byte of text, in bits; known for the whole text.
    pub bits_per_byte: Option<f64>,
}

impl Gate {
    /// Runs the checks; with `prefix` the perplexity is of the text's beginning only.
    ///
    /// Errors if the backend or the demo model cannot be had. A wrong answer is no error: the
    /// report says so.
    pub fn check(
        &self,
        factory: &Factory,
        (activations, numerics): (Activations, Numerics),
        prefix: bool,
    ) -> Result<GateReport> {
        let mut details = Vec::new();
        let mut passed = true;
        if let Some(before) = &self.before {
            passed &= before.passed;
            details.push(before.detail.clone());
        }
        let demo = Arc::new((self.demo)()?);
        let golden = golden_runs(factory, &demo, numerics)?;
        passed &= golden.0 == golden.1;
        details.push(format!(
            "{} of {} greedy runs of {} equal",
            golden.0,
            golden.1,
            crate::files::base_name(&demo.name)
        ));
        if !passed {
            let correctness = Correctness { passed, detail: details.join("; ") };
            return Ok(GateReport { correctness, golden, perplexity: None });
        }
        let perplexity = perplexity(factory, &demo, (activations, numerics), prefix)?;
        let passed = (perplexity.value / perplexity.expected - 1.0).abs() <= TOLERANCE;
        details.push(format!(
            "its perplexity of {} held-out tokens{} {:.3} ({:.3} expected)",
            perplexity.tokens,
            if perplexity.whole { "" } else { " (the text's beginning)" },
            perplexity.value,
            perplexity.expected
        ));
        let correctness = Correctness { passed, detail: details.join("; ") };
        Ok(GateReport { correctness, golden, perplexity: Some(perplexity) })
    }
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<GoldenCase>,
}

#[derive(Deserialize)]
struct GoldenCase {
    prompt_ids: Vec<TokenId>,
    output_ids: Vec<TokenId>,
}

/// Greedy runs under f32 activations, all at once through the engine: how many equal the golden
/// ones, and of how many.
fn golden_runs(factory: &Factory, demo: &Arc<Model>, numerics: Numerics) -> Result<(usize, usize)> {
    let golden: Golden = serde_json::from_str(GOLDEN).map_err(|e| data("nvllm-tiny.json", &e))?;
    let activations = Some(Activations::F32);
    let engine = start(factory, demo, LoadOptions { activations, numerics, ..LoadOptions::default() })?;
    let streams = golden.cases.iter().map(|case| {
        let max_tokens = Some(case.output_ids.len());
        engine.stream(Request { prompt: case.prompt_ids.clone(), max_tokens, ..Request::default() })
    });
    let streams: Vec<RequestStream> = streams.collect::<nvllm_engine::Result<_>>()?;
    let mut equal = 0;
    for (stream, case) in streams.into_iter().zip(&golden.cases) {
        let token = |event| if let Event::Token { token, .. } = event { Some(token) } else { None };
        let tokens: Vec<TokenId> = stream.filter_map(token).collect();
        equal += usize::from(tokens == case.output_ids);
    }
    Ok((equal, golden.cases.len()))
}

#[derive(Deserialize)]
struct Expected {
    /// Tokens that each window scores.
    window: usize,
    /// Tokens of the beginning.
    prefix_tokens: usize,
    prefix_perplexity: f64,
    perplexity: f64,
}

/// Perplexity under `activations`: the documents with an end-of-text token after each, in windows
/// that overlap by one token, so that each token but the first is scored once.
fn perplexity(
    factory: &Factory,
    demo: &Arc<Model>,
    (activations, numerics): (Activations, Numerics),
    prefix: bool,
) -> Result<Perplexity> {
    let expected: Expected = serde_json::from_str(EXPECTED).map_err(|e| data("expected.json", &e))?;
    let documents = documents()?;
    let mut ids = encode(demo, &documents)?;
    if prefix {
        ids.truncate(expected.prefix_tokens);
    }
    let options = LoadOptions {
        activations: Some(activations),
        numerics,
        max_num_seqs: Some(1),
        max_num_batched_tokens: Some(STEP_TOKENS),
        max_num_logits: STEP_TOKENS,
        max_model_len: Some(expected.window + 1),
        ..LoadOptions::default()
    };
    let engine = start(factory, demo, options)?;
    let (mut nll, mut tokens) = (0.0_f64, 0);
    for first in (0..ids.len().saturating_sub(1)).step_by(expected.window) {
        let last = ids.len().min(first + expected.window + 1);
        let request = Request {
            prompt: ids[first..last].to_vec(),
            max_tokens: Some(0),
            prompt_logprobs: Some(0),
            ..Request::default()
        };
        let scores = engine.generate(request)?.prompt_logprobs;
        nll -= scores.iter().map(|scores| f64::from(scores.logprob)).sum::<f64>();
        tokens += scores.len();
    }
    let bytes: usize = documents.iter().map(String::len).sum();
    Ok(Perplexity {
        tokens,
        whole: !prefix,
        value: (nll / tokens as f64).exp(),
        expected: if prefix { expected.prefix_perplexity } else { expected.perplexity },
        bits_per_byte: (!prefix).then(|| nll / std::f64::consts::LN_2 / bytes as f64),
    })
}

/// The documents' ids, each followed by the end-of-text token.
fn encode(demo: &Model, documents: &[String]) -> Result<Vec<TokenId>> {
    let tokenizer = demo.tokenizer()?;
    let end = tokenizer.encode(END_OF_TEXT, EncodeOptions::default())?;
    let literal = EncodeOptions { add_special_tokens: false, special_text: SpecialText::Literal };
    let mut ids = Vec::new();
    for document in documents {
        ids.extend(tokenizer.encode(document, literal)?.into_iter().map(TokenId));
        ids.extend(end.iter().map(|&id| TokenId(id)));
    }
    Ok(ids)
}

fn start(factory: &Factory, model: &Arc<Model>, options: LoadOptions) -> Result<Engine> {
    let factory = Arc::clone(factory);
    Ok(Engine::builder(Arc::clone(model), move || factory()).options(options).start()?)
}

fn data(file: &str, problem: &dyn std::fmt::Display) -> BenchError {
    BenchError::Data { file: file.into(), problem: problem.to_string() }
}
