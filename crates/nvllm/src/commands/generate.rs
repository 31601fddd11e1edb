//! `nvllm generate`: continue a text.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nvllm_core::{TokenId, TokenLogprobs};
use nvllm_engine::text::EncodeOptions;
use nvllm_engine::{Event, FinishReason, Finished, Model, Request, RequestStream};
use serde_json::{Value, json};

use super::answer::{next_event, print_text};
use crate::flags::{ModelArgs, SamplingArgs, params};
use crate::interrupt::{Interrupted, Listener};
use crate::models;
use crate::output::note;
use crate::report::Speed;

#[derive(Args)]
pub(crate) struct Generate {
    /// The text to continue; `-` reads standard input.
    pub prompt: String,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Show special tokens.
    #[arg(long)]
    pub special: bool,
    /// Report log-probabilities of each token and of this many of the most likely (with --json).
    #[arg(long, value_name = "K", requires = "json")]
    pub logprobs: Option<u16>,
    /// Print one JSON object when done, instead of text as it comes.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: Generate) -> Result<()> {
    let prompt = if args.prompt == "-" { read_stdin()? } else { args.prompt };
    if prompt.is_empty() {
        bail!("the prompt is empty; give a text to continue");
    }
    let (engine, model) = models::start(&args.model, 1)?;
    let encode = EncodeOptions { add_special_tokens: true, ..EncodeOptions::default() };
    let ids = model.tokenizer()?.encode(&prompt, encode)?;
    let sampling = params(&args.sampling, &model);
    let seed = sampling.seed;
    let request = Request {
        prompt: ids.into_iter().map(TokenId).collect(),
        sampling,
        max_tokens: Some(args.sampling.max_tokens.unwrap_or(256)),
        stop: args.sampling.stop,
        show_special_tokens: args.special,
        logprobs: args.logprobs,
        ..Request::default()
    };
    let interrupt = Listener::start();
    let mut stream = engine.submit(request)?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        write!(out, "{prompt}")?;
        out.flush()?;
        let finished = print_text(&mut stream, &mut out, &interrupt, &mut String::new())?;
        writeln!(out)?;
        if let Some(finished) = finished {
            note!("{}, seed {seed}", Speed::of(&finished, &engine, &model)?.line(&finished));
        }
        return Ok(());
    }
    let answer = collect(&mut stream, &model, &interrupt)?;
    let speed = Speed::of(&answer.finished, &engine, &model)?;
    let report = json!({
        "model": model.name,
        "prompt": prompt,
        "text": answer.text,
        "finish_reason": reason(answer.finished.reason),
        "token_ids": answer.tokens,
        "logprobs": args.logprobs.map(|_| answer.logprobs),
        "usage": {
            "prompt_tokens": answer.finished.prompt_tokens,
            "completion_tokens": answer.finished.output_tokens,
        },
        "seed": seed,
        "speed": speed.json(),
    });
    writeln!(out, "{report:#}")?;
    Ok(())
}

struct Answer {
    text: String,
    tokens: Vec<TokenId>,
    logprobs: Vec<Value>,
    finished: Finished,
}

fn collect(stream: &mut RequestStream, model: &Model, interrupt: &Listener) -> Result<Answer> {
    let (mut text, mut tokens, mut scores) = (String::new(), Vec::new(), Vec::new());
    while let Some(event) = next_event(stream, interrupt)? {
        match event {
            Event::Token { token, text: piece, logprobs, .. } => {
                text += &piece;
                tokens.push(token);
                scores.extend(logprobs.map(|logprobs| score(token, &logprobs, model)));
            }
            Event::Finished(finished) => {
                text += &finished.text;
                return Ok(Answer { text, tokens, logprobs: scores, finished });
            }
            Event::PromptRow { .. } => {}
        }
    }
    Err(Interrupted.into())
}

fn score(token: TokenId, logprobs: &TokenLogprobs, model: &Model) -> Value {
    let piece = |id: TokenId| model.tokenizer.as_ref().map(|t| t.decode(&[id.0], false));
    let top: Vec<_> = logprobs
        .top
        .iter()
        .map(|&(id, logprob)| json!({ "id": id, "token": piece(id), "logprob": logprob }))
        .collect();
    json!({ "id": token, "token": piece(token), "logprob": logprobs.logprob, "top_logprobs": top })
}

/// OpenAI's names.
fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::StopToken(_) | FinishReason::StopString => "stop",
        FinishReason::Length => "length",
        FinishReason::Aborted => "abort",
        FinishReason::Failed => "error",
    }
}

fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read the prompt from standard input")?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("the prompt on standard input is not UTF-8 (byte {at}); convert it first")
    })
}
