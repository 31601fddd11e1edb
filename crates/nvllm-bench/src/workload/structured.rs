//! S5: what a token costs under a grammar, against the same requests without.

use std::sync::Arc;

use nvllm_core::{SamplingParams, TokenId};
use nvllm_engine::grammar::{Grammar, GrammarCompiler, StructuredOutput};
use nvllm_engine::{Engine, FinishReason, LoadOptions, Request};
use serde_json::{Map, Value, json};

use super::contract::Workload;
use super::figures::{Figures, median_of};
use crate::context::Context;
use crate::measure::{Measurement, Roof, roof_series, turns};
use crate::record::{Case, Record, Series, names};
use crate::{BenchError, Result};

/// Schemas by name, from a few flags to an order with its lines.
const SCHEMAS: &str = include_str!("structured/schemas.json");

/// Answers at once.
const BATCHES: [usize; 2] = [1, 8];
const PROMPT_LEN: usize = 32;
const OUTPUT_LEN: usize = 128;
const QUICK_OUTPUT_LEN: usize = 32;
const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 2;
/// Schemas of a quick run.
const QUICK_SCHEMAS: usize = 2;

/// No grammar, and one of each schema, in turn.
pub(super) struct Structured;

impl Workload for Structured {
    fn name(&self) -> &'static str {
        "structured"
    }

    fn code(&self) -> &'static str {
        "S5"
    }

    fn definition(&self) -> &'static str {
        "1 and 8 sampled answers of 128 tokens at once, without a grammar (off) and as lists of what each of 12 schemas \
         allows, in turn: mean seconds of a decode step, from the first token to the last"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let model = Arc::new(bench.open()?);
        let Ok(compiler) = GrammarCompiler::new(&model) else {
            bench.skip("structured", "the model has no tokenizer");
            return Ok(());
        };
        let quick = bench.settings.quick;
        let (output_len, rounds) =
            if quick { (QUICK_OUTPUT_LEN, QUICK_ROUNDS) } else { (OUTPUT_LEN, ROUNDS) };
        let context = PROMPT_LEN + output_len;
        if context > model.spec.max_positions {
            bench.skip("structured", &format!("the model has {} positions", model.spec.max_positions));
            return Ok(());
        }
        let grammars = grammars(&compiler, if quick { QUICK_SCHEMAS } else { usize::MAX })?;
        let backend = bench.backend()?;
        let most = BATCHES[BATCHES.len() - 1];
        let step_tokens = bench.step_tokens;
        let limits = bench.limits(&model, most, context, step_tokens)?;
        if !bench.fits("structured", limits.kv_bytes + model.weight_bytes()?) {
            return Ok(());
        }
        let options = LoadOptions {
            max_num_seqs: Some(most),
            max_num_batched_tokens: Some(step_tokens),
            max_model_len: Some(context),
            kv_cache_bytes: Some(limits.kv_bytes),
            block_size: limits.block_len,
            activations: Some(bench.settings.activations),
            numerics: bench.settings.numerics,
            ..LoadOptions::default()
        };
        let factory = bench.factory();
        let engine = Engine::builder(Arc::clone(&model), move || factory()).options(options).start()?;
        for batch in BATCHES {
            let mut roofs: Vec<Roof> = vec![bench.roof(backend.as_ref())];
            let mut seconds = vec![Vec::new(); grammars.len()];
            // The first round is not timed: pages, scratch and graphs are there before the clock
            // runs.
            for round in 0..=rounds {
                bench.progress(&format!("structured, batch {batch}: {round} of {rounds}"));
                for turn in turns(round, grammars.len()) {
                    let request = request(model.spec.vocab_size, batch, output_len, grammars[turn].1.clone());
                    let taken = step_seconds(&engine, request)?;
                    if round > 0 {
                        seconds[turn].push(taken);
                    }
                }
            }
            roofs.push(bench.roof(backend.as_ref()));
            for ((state, _), seconds) in grammars.iter().zip(seconds) {
                let case = Case {
                    batch: Some(batch),
                    prompt_len: Some(PROMPT_LEN),
                    output_len: Some(output_len),
                    state: Some(state.clone()),
                    ..Case::default()
                };
                let mut series = roof_series(&roofs);
                series.push((names::TOKEN_SECONDS, Series::seconds(seconds)));
                bench.record(self.name(), &case, Measurement { series, ..Measurement::default() })?;
            }
        }
        Ok(())
    }

    fn figures(&self, record: &Record) -> Figures {
        let seconds = record.median(names::TOKEN_SECONDS);
        Figures {
            headline: format!("{} a step", median_of(record, names::TOKEN_SECONDS)),
            rate: record.case.batch.zip(seconds).map(|(batch, seconds)| batch as f64 / seconds),
            limit: "-".into(),
        }
    }
}

/// No grammar, and lists without an end of what the first `num` schemas allow.
fn grammars(compiler: &GrammarCompiler, num: usize) -> Result<Vec<(String, Option<Grammar>)>> {
    let schemas: Map<String, Value> = serde_json::from_str(SCHEMAS).unwrap_or_default();
    let mut grammars = vec![("off".to_owned(), None)];
    for (name, mut schema) in schemas.into_iter().take(num) {
        let definitions = schema.as_object_mut().and_then(|fields| fields.remove("$defs"));
        let mut list = json!({ "type": "array", "minItems": OUTPUT_LEN, "items": schema });
        list["$defs"] = definitions.unwrap_or_else(|| json!({}));
        grammars.push((name, Some(compiler.compile(&StructuredOutput::Json(list))?)));
    }
    Ok(grammars)
}

/// A request of `batch` answers that have no end.
fn request(vocab_size: usize, batch: usize, output_len: usize, grammar: Option<Grammar>) -> Request {
    Request {
        prompt: (0..PROMPT_LEN).map(|at| TokenId((at * 37 % vocab_size) as u32)).collect(),
        sampling: SamplingParams { temperature: 1.0, ..SamplingParams::default() },
        max_tokens: Some(output_len),
        n: Some(batch),
        grammar,
        ..Request::default()
    }
}

/// Seconds of a decode step, the mean over all answers, which are decoded together.
fn step_seconds(engine: &Engine, request: Request) -> Result<f64> {
    let choices = engine.generate_choices(request)?;
    let mut sum = 0.0;
    for (number, choice) in choices.iter().enumerate() {
        let finished = &choice.finished;
        if finished.reason != FinishReason::Length {
            let problem = format!("ended with {:?} after {} tokens", finished.reason, finished.output_tokens);
            return Err(BenchError::Request { number, problem });
        }
        sum += finished.decode_time.as_secs_f64() / (finished.output_tokens - 1) as f64;
    }
    Ok(sum / choices.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twelve_schemas_by_name() {
        let schemas: Map<String, Value> = serde_json::from_str(SCHEMAS).unwrap();
        assert_eq!(schemas.len(), 12);
    }
}
