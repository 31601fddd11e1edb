//! `nvllm generate`: continue a text, or many at once.

use std::io::Write as _;

use anyhow::{Result, bail};
use clap::Args;
use nvllm_core::{TokenId, TokenLogprobs};
use nvllm_engine::text::{EncodeOptions, Tokenizer};
use nvllm_engine::{Engine, Model, Request};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Ending, Receiving, Token};
use super::prompts::PromptArgs;
use super::structured::StructuredArgs;
use crate::flags::{ModelArgs, SamplingArgs, number, params};
use crate::interrupt::{Interrupted, Listener};
use crate::models;
use crate::output::note;
use crate::report::{Report, Roofline};
use crate::words::UsageError;

/// Tokens of an answer if nobody says otherwise.
const MAX_TOKENS: usize = 256;

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm generate \"Once upon a time\"
  nvllm generate -m Qwen/Qwen3-0.6B -f story.txt -n -1 --temp 0.8 --seed 7
  nvllm generate --prompts prompts.txt --jsonl > answers.jsonl")]
#[expect(clippy::struct_excessive_bools, reason = "a flag each")]
pub(crate) struct Generate {
    #[command(flatten)]
    prompt: PromptArgs,
    /// Leave the prompt out of the output.
    #[arg(long)]
    no_display_prompt: bool,
    /// Show special tokens.
    #[arg(long)]
    special: bool,
    /// Print one JSON object when done (with --prompts an array), instead of text as it comes.
    #[arg(long, conflicts_with = "jsonl")]
    json: bool,
    /// Print a JSON object for each token as it comes, and one at the end.
    #[arg(long)]
    jsonl: bool,
    /// Report log-probabilities of each token and of this many of the most likely (needs --json or
    /// --jsonl).
    #[arg(long, value_name = "K")]
    logprobs: Option<u16>,
    /// Prompts of --prompts that run at once [default: as many as suit the
    /// backend].
    #[arg(long, value_name = "N", requires = "prompts", value_parser = number::positive)]
    max_num_seqs: Option<usize>,
    /// Measure the memory's read bandwidth afterwards, and say how near decoding came to it.
    #[arg(long)]
    roofline: bool,
    #[command(flatten)]
    structured: StructuredArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    model: ModelArgs,
}

pub(super) fn run(args: &Generate) -> Result<()> {
    if args.logprobs.is_some() && !(args.json || args.jsonl) {
        return Err(UsageError("--logprobs needs --json or --jsonl: text has no place for them").into());
    }
    args.sampling.check()?;
    let (prompts, many) = args.prompt.read()?;
    let (engine, model) = models::start(&args.model, &args.sampling, args.max_num_seqs, prompts.len())?;
    args.sampling.warn_of_defaults(&model);
    let sampling = params(&args.sampling, &model);
    let seed = sampling.seed;
    let max_tokens = args.sampling.max_tokens(&model, MAX_TOKENS);
    let tokenizer = model.tokenizer()?;
    let grammar = args.structured.compile(&model)?;
    let request = |prompt: &str| -> Result<Request> {
        let encode = EncodeOptions { add_special_tokens: true, ..EncodeOptions::default() };
        Ok(Request {
            prompt: tokenizer.encode(prompt, encode)?.into_iter().map(TokenId).collect(),
            sampling: sampling.clone(),
            max_tokens,
            stop: args.sampling.stop(&model),
            show_special_tokens: args.special,
            logprobs: args.logprobs,
            grammar: grammar.clone(),
            ..Request::default()
        })
    };
    let requests = prompts.iter().map(|prompt| request(prompt)).collect::<Result<Vec<_>>>()?;
    let listener = Listener::start();
    let mut receiving = Vec::new();
    for request in requests {
        receiving.push(Receiving::submit(&engine, request)?);
    }
    let printer = Printer { args, engine: &engine, model: &model, tokenizer, seed, many };
    let mut interrupted = false;
    let mut results = Vec::new();
    // In the order of the prompts. They all run at once; the later ones' events wait in their
    // streams.
    for (index, (prompt, receiving)) in prompts.iter().zip(receiving).enumerate() {
        let answer = printer.stream(index, prompt, receiving, &listener)?;
        interrupted |= answer.ending == Ending::Interrupted;
        results.extend(printer.close(index, prompt, &answer)?);
    }
    match results.len() {
        0 => {}
        1 if !many => writeln!(std::io::stdout(), "{:#}", results[0])?,
        _ => writeln!(std::io::stdout(), "{:#}", Value::from(results))?,
    }
    if interrupted {
        // Joining the engine's thread would wait for the step that it runs, which may be a long
        // prompt's.
        std::mem::forget(engine);
        bail!(Interrupted);
    }
    Ok(())
}

/// Prints answers in the form that was asked for.
struct Printer<'a> {
    args: &'a Generate,
    engine: &'a Engine,
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    seed: u64,
    many: bool,
}

impl Printer<'_> {
    /// Waits for an answer and prints what is to be printed as it comes.
    fn stream(
        &self,
        index: usize,
        prompt: &str,
        receiving: Receiving,
        listener: &Listener,
    ) -> Result<Answer> {
        let mut out = std::io::stdout().lock();
        if !self.args.json && !self.args.jsonl {
            if self.many {
                writeln!(out, "==> prompt {} <==", index + 1)?;
            }
            if !self.args.no_display_prompt {
                write!(out, "{prompt}")?;
                out.flush()?;
            }
        }
        receiving.answer(listener, |text, token| {
            if self.args.jsonl {
                if let Some(token) = token {
                    writeln!(out, "{}", Value::from(self.token(index, text, token)))?;
                }
            } else if !self.args.json {
                write!(out, "{text}")?;
            }
            Ok(out.flush()?)
        })
    }

    /// Prints what follows an answer; with `--json` it is returned instead.
    fn close(&self, index: usize, prompt: &str, answer: &Answer) -> Result<Option<Value>> {
        let measured = self.args.roofline && answer.ending != Ending::Interrupted;
        let roofline = if measured { Roofline::measure(answer, self.engine, self.model) } else { None };
        let report = Report { answer, seed: self.seed, roofline };
        let mut out = std::io::stdout().lock();
        if self.args.json {
            return Ok(Some(self.object(prompt, &report)));
        }
        if self.args.jsonl {
            let mut end = self.indexed(index);
            end.insert("finish_reason".into(), answer.ending.name().into());
            end.insert("text".into(), answer.text.clone().into());
            end.extend(report.fields());
            writeln!(out, "{}", Value::from(end))?;
        } else {
            writeln!(out)?;
            note!("{}", report.line());
        }
        Ok(None)
    }

    /// The object of `--json`.
    fn object(&self, prompt: &str, report: &Report) -> Value {
        let answer = report.answer;
        let scores = answer.tokens.iter().filter_map(|token| self.score(token));
        let mut object = json!({
            "model": self.model.name,
            "prompt": prompt,
            "text": answer.text,
            "finish_reason": answer.ending.name(),
            "token_ids": answer.tokens.iter().map(|token| token.id).collect::<Vec<_>>(),
            "logprobs": self.args.logprobs.map(|_| scores.collect::<Vec<_>>()),
        });
        if let Some(fields) = object.as_object_mut() {
            fields.extend(report.fields());
        }
        object
    }

    /// A line of `--jsonl` for a token.
    fn token(&self, index: usize, text: &str, token: &Token) -> Map<String, Value> {
        let mut line = self.indexed(index);
        line.insert("token_id".into(), token.id.0.into());
        line.insert("text".into(), text.into());
        if let Some(score) = self.score(token) {
            line.insert("logprobs".into(), score);
        }
        line
    }

    /// The beginning of a line of `--jsonl`: which of several prompts it belongs to.
    fn indexed(&self, index: usize) -> Map<String, Value> {
        self.many.then(|| ("index".to_owned(), index.into())).into_iter().collect()
    }

    fn score(&self, token: &Token) -> Option<Value> {
        let TokenLogprobs { logprob, top, .. } = token.logprobs.as_ref()?;
        let top: Vec<_> = top.iter().map(|&(id, logprob)| Value::from(self.scored(id, logprob))).collect();
        let mut score = self.scored(token.id, *logprob);
        score.insert("top_logprobs".into(), top.into());
        Some(score.into())
    }

    /// A token with its log-probability. `bytes` are exact where a token is a part of a character
    /// and `token` cannot be.
    fn scored(&self, id: TokenId, logprob: f32) -> Map<String, Value> {
        let fields = [
            ("id", id.0.into()),
            ("token", self.tokenizer.decode(&[id.0], false).into()),
            ("bytes", self.tokenizer.token_bytes(id.0).into()),
            ("logprob", logprob.into()),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }
}
