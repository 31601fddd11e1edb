//! `nvllm generate`: continue a text.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use nvllm_core::{TokenId, TokenLogprobs};
use nvllm_engine::text::EncodeOptions;
use nvllm_engine::{Event, FinishReason, Finished, Model, Request, RequestStream};
use serde_json::{Value, json};

use super::sampling;
use crate::cli::Generate;
use crate::models;
use crate::report::Speed;

pub(super) fn run(args: Generate) -> Result<()> {
    let prompt = if args.prompt == "-" { read_stdin()? } else { args.prompt };
    if prompt.is_empty() {
        bail!("the prompt is empty; give a text to continue");
    }
    let (engine, model) = models::start(&args.model, 1)?;
    let encode = EncodeOptions { add_special_tokens: true, ..EncodeOptions::default() };
    let ids = model.tokenizer()?.encode(&prompt, encode)?;
    let sampling = sampling::params(&args.sampling, &model);
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
    let interrupted = on_interrupt()?;
    let mut stream = engine.submit(request)?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        write!(out, "{prompt}")?;
        out.flush()?;
        let finished = print_text(&mut stream, &mut out, &interrupted, &mut String::new())?;
        writeln!(out)?;
        if let Some(finished) = finished {
            eprintln!("{}, seed {seed}", Speed::of(&finished, &engine, &model)?.line(&finished));
        }
        return Ok(());
    }
    let answer = collect(&mut stream, &model)?;
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

/// Prints text as it comes and appends it to `all`. `None` if interrupted: the request then ends with its stream.
pub(super) fn print_text(
    stream: &mut RequestStream,
    out: &mut impl std::io::Write,
    interrupted: &AtomicBool,
    all: &mut String,
) -> Result<Option<Finished>> {
    loop {
        let (text, finished) = match stream.next_event()? {
            Event::Token { text, .. } => (text, None),
            Event::Finished(finished) => (finished.text.clone(), Some(finished)),
            Event::PromptRow { .. } => continue,
        };
        write!(out, "{text}")?;
        out.flush()?;
        *all += &text;
        if let Some(finished) = finished {
            check(&finished)?;
            return Ok(Some(finished));
        }
        if interrupted.swap(false, Ordering::Relaxed) {
            return Ok(None);
        }
    }
}

/// A flag that Ctrl-C sets.
pub(super) fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&interrupted);
    ctrlc::set_handler(move || set.store(true, Ordering::Relaxed)).context("cannot listen for Ctrl-C")?;
    Ok(interrupted)
}

struct Answer {
    text: String,
    tokens: Vec<TokenId>,
    logprobs: Vec<Value>,
    finished: Finished,
}

fn collect(stream: &mut RequestStream, model: &Model) -> Result<Answer> {
    let (mut text, mut tokens, mut scores) = (String::new(), Vec::new(), Vec::new());
    loop {
        match stream.next_event()? {
            Event::Token { token, text: piece, logprobs, .. } => {
                text += &piece;
                tokens.push(token);
                scores.extend(logprobs.map(|logprobs| score(token, &logprobs, model)));
            }
            Event::Finished(finished) => {
                check(&finished)?;
                text += &finished.text;
                return Ok(Answer { text, tokens, logprobs: scores, finished });
            }
            Event::PromptRow { .. } => {}
        }
    }
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

fn check(finished: &Finished) -> Result<()> {
    match &finished.error {
        Some(error) => bail!("generation failed: {error}"),
        None => Ok(()),
    }
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
