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
const BATCHES: [usize; 3] = [1, 8, 64];
/// What a quick run has of them.
const QUICK_BATCHES: [usize; 2] = [1, 8];
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
        "1, 8 and 64 sampled answers of 128 tokens at once, without a grammar (off) and as lists of what each of 12 \
         schemas allows, in turn: mean seconds of a decode step, from the first token to the last; and of one answer \
         without a grammar beside the others with and without"
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
        let batches = match &bench.settings.sizes.batch[..] {
            [] if quick => QUICK_BATCHES.to_vec(),
            [] => BATCHES.to_vec(),
            given => given.to_vec(),
        };
        let most = batches.iter().copied().max().unwrap_or(1);
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
        for batch in batches {
            let mut roofs: Vec<Roof> = vec![bench.roof(&backend)];
            let cases = cases(&grammars, batch);
            let mut seconds = vec![Vec::new(); cases.len()];
            // The first round is not timed: pages, scratch and graphs are there before the clock
            // runs.
            for round in 0..=rounds {
                bench.progress(&format!("structured, batch {batch}: {round} of {rounds}"));
                for turn in turns(round, cases.len()) {
                    let request = |num: usize, grammar: Option<&Grammar>| {
                        request(model.spec.vocab_size, num, output_len, grammar.cloned())
                    };
                    let taken = match cases[turn].1 {
                        Answers::All(grammar) => step_seconds(&engine, request(batch, grammar))?,
                        Answers::Others(grammar) => {
                            let (one, others) = (request(1, None), request(batch - 1, grammar));
                            step_seconds_beside(&engine, one, others)?
                        }
                    };
                    if round > 0 {
                        seconds[turn].push(taken);
                    }
                }
            }
            roofs.push(bench.roof(&backend));
            for ((state, _), seconds) in cases.into_iter().zip(seconds) {
                let case = Case {
                    batch: Some(batch),
                    prompt_len: Some(PROMPT_LEN),
                    output_len: Some(output_len),
                    state: Some(state),
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

/// Which answers of a step follow a grammar.
#[derive(Clone, Copy)]
enum Answers<'a> {
    /// All of them, if there is one.
    All(Option<&'a Grammar>),
    /// All but the one whose time is taken.
    Others(Option<&'a Grammar>),
}

/// Every grammar for all answers; then, of more than one, one answer beside others without and with
/// the first grammar.
fn cases(grammars: &[(String, Option<Grammar>)], batch: usize) -> Vec<(String, Answers<'_>)> {
    let all = grammars.iter().map(|(name, grammar)| (name.clone(), Answers::All(grammar.as_ref())));
    let beside = grammars.iter().take(if batch > 1 { 2 } else { 0 });
    let beside = beside.map(|(name, grammar)| {
        (format!("one beside {} of {name}", batch - 1), Answers::Others(grammar.as_ref()))
    });
    all.chain(beside).collect()
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

/// As [`step_seconds`] of `request`, with `others` decoded beside it.
fn step_seconds_beside(engine: &Engine, request: Request, others: Request) -> Result<f64> {
    std::thread::scope(|scope| {
        let others = scope.spawn(|| step_seconds(engine, others));
        let seconds = step_seconds(engine, request);
        others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        seconds
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twelve_schemas_by_name() {
        let schemas: Map<String, Value> = serde_json::from_str(SCHEMAS).unwrap();
        assert_eq!(schemas.len(), 12);
    }

    #[test]
    fn an_answer_beside_others_is_timed_where_there_are_others() {
        let grammars = [("off".to_owned(), None), ("flags".to_owned(), None)];
        let names = |batch| cases(&grammars, batch).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(1), ["off", "flags"]);
        assert_eq!(names(64), ["off", "flags", "one beside 63 of off", "one beside 63 of flags"]);
    }
}
