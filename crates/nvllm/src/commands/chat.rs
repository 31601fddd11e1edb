//! `nvllm chat`: a conversation on the terminal.

use std::io::Write as _;

use anyhow::{Result, bail};
use clap::Args;
use nvllm_core::TokenId;
use nvllm_engine::text::{ChatInput, EncodeOptions};
use nvllm_engine::{Engine, Model, Request};
use rustyline::error::ReadlineError;
use serde_json::{Map, Value, json};

use super::answer::{Ending, Receiving};
use crate::flags::{ModelArgs, SamplingArgs, params};
use crate::interrupt::{Interrupted, Listener};
use crate::models;
use crate::output::note;
use crate::report::{Report, Roofline};
use crate::words::error_line;

const HELP: &str = "\
/help          this list
/new           forget the conversation
/system TEXT   set the system message and forget the conversation
/think on|off  whether the model thinks before it answers, where its template knows that
/history       show the conversation
/exit          leave (also Ctrl-D)
Ctrl-C         stop the answer";

/// Tokens of an answer if nobody says otherwise: a small model can go on until the context is full.
const MAX_TOKENS: usize = 1024;

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm chat
  nvllm chat -m Qwen/Qwen3-0.6B --thinking false \"What is a tape?\"")]
pub(crate) struct Chat {
    /// A message to answer; without one, a conversation is read from the terminal.
    pub message: Option<String>,
    /// A system message.
    #[arg(long)]
    pub system: Option<String>,
    /// Whether the model thinks before it answers (for templates that know `enable_thinking`).
    #[arg(long, value_name = "BOOL")]
    pub thinking: Option<bool>,
    /// Measure the memory's read bandwidth after the first answer, and say how near decoding came to it.
    #[arg(long)]
    pub roofline: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

pub(super) fn run(args: &Chat) -> Result<()> {
    args.sampling.check()?;
    let (engine, model) = models::start(&args.model, 1)?;
    model.chat_template()?;
    args.sampling.warn_of_defaults(&model);
    let listener = Listener::start();
    let mut chat =
        Conversation { system: args.system.clone(), thinking: args.thinking, messages: Vec::new() };
    chat.clear();
    if let Some(message) = &args.message {
        let ending = chat.answer(message, &engine, &model, args, &listener)?;
        if ending == Ending::Interrupted {
            // Joining the engine's thread would wait for the step that it runs, which may be a long prompt's.
            std::mem::forget(engine);
            bail!(Interrupted);
        }
        return Ok(());
    }
    note!("{}; /help lists commands", model.name);
    let mut editor = rustyline::DefaultEditor::new()?;
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        editor.add_history_entry(line)?;
        match line.split_once(' ').map_or((line, ""), |(command, rest)| (command, rest.trim())) {
            ("/exit" | "/quit", _) => return Ok(()),
            ("/help", _) => note!("{HELP}"),
            ("/new", _) => chat.clear(),
            ("/system", text) => {
                chat.system = Some(text.to_owned()).filter(|text| !text.is_empty());
                chat.clear();
            }
            ("/think", "on") => chat.thinking = Some(true),
            ("/think", "off") => chat.thinking = Some(false),
            ("/history", _) => chat.print(),
            (command, _) if command.starts_with('/') => note!("no command {line}; /help lists them"),
            // A conversation that has grown too long, say: told, not the end.
            _ => {
                if let Err(e) = chat.answer(line, &engine, &model, args, &listener) {
                    note!("error: {}", error_line(&e));
                }
            }
        }
    }
}

struct Conversation {
    system: Option<String>,
    thinking: Option<bool>,
    messages: Vec<Value>,
}

impl Conversation {
    fn clear(&mut self) {
        self.messages = self.system.iter().map(|text| json!({ "role": "system", "content": text })).collect();
    }

    fn print(&self) {
        for message in &self.messages {
            note!(
                "{}: {}",
                message["role"].as_str().unwrap_or("?"),
                message["content"].as_str().unwrap_or("")
            );
        }
    }

    /// Answers `message`; both become part of the conversation unless something failed. What came before Ctrl-C is an answer.
    fn answer(
        &mut self,
        message: &str,
        engine: &Engine,
        model: &Model,
        args: &Chat,
        listener: &Listener,
    ) -> Result<Ending> {
        let mut messages = self.messages.clone();
        messages.push(json!({ "role": "user", "content": message }));
        let prompt = self.render(&messages, model)?;
        let ids = model.tokenizer()?.encode(&prompt, EncodeOptions::default())?;
        let sampling = params(&args.sampling, model);
        let seed = sampling.seed;
        let request = Request {
            prompt: ids.into_iter().map(TokenId).collect(),
            sampling,
            max_tokens: args.sampling.max_tokens(model, MAX_TOKENS),
            stop: args.sampling.stop(model),
            ..Request::default()
        };
        let (prompt_tokens, max_tokens) = (request.prompt.len(), request.max_tokens);
        let receiving = Receiving::new(engine.submit(request)?, prompt_tokens, max_tokens);
        let mut out = std::io::stdout().lock();
        let answer = receiving.answer(listener, |text, _| {
            write!(out, "{text}")?;
            Ok(out.flush()?)
        })?;
        writeln!(out)?;
        let measured = args.roofline && answer.ending != Ending::Interrupted;
        let roofline = if measured { Roofline::measure(&answer, engine, model)? } else { None };
        note!("{}", Report { answer: &answer, seed, roofline }.line());
        messages.push(json!({ "role": "assistant", "content": answer.text }));
        self.messages = messages;
        Ok(answer.ending)
    }

    fn render(&self, messages: &[Value], model: &Model) -> Result<String> {
        let thinking = self.thinking.map(|on| ("enable_thinking".to_owned(), Value::Bool(on)));
        let kwargs: Map<String, Value> = thinking.into_iter().collect();
        let input = ChatInput {
            messages,
            add_generation_prompt: true,
            kwargs: Some(&kwargs),
            ..ChatInput::default()
        };
        Ok(model.chat_template()?.render(&input)?)
    }
}
