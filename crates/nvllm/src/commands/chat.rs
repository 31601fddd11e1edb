//! `nvllm chat`: a conversation on the terminal.

use std::io::Write as _;

use anyhow::{Result, bail};
use clap::Args;
use nvllm_core::TokenId;
use nvllm_engine::text::{ChatInput, EncodeOptions};
use nvllm_engine::{Engine, Model, Request};
use rustyline::error::ReadlineError;
use serde_json::{Map, Value, json};

use super::answer::print_text;
use crate::flags::{ModelArgs, SamplingArgs, params};
use crate::interrupt::Listener;
use crate::models;
use crate::output::note;
use crate::report::Speed;

const HELP: &str = "\
/help          this list
/new           forget the conversation
/system TEXT   set the system message and forget the conversation
/think on|off  whether the model thinks before it answers, where its template knows that
/history       show the conversation
/exit          leave (also Ctrl-D)
Ctrl-C         stop the answer";

#[derive(Args)]
pub(crate) struct Chat {
    /// A message to answer; without one, a conversation is read from the terminal.
    pub message: Option<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// A system message.
    #[arg(long)]
    pub system: Option<String>,
    /// Whether the model thinks before it answers (for templates that know `enable_thinking`).
    #[arg(long, value_name = "BOOL")]
    pub thinking: Option<bool>,
}

pub(super) fn run(args: &Chat) -> Result<()> {
    let (engine, model) = models::start(&args.model, 1)?;
    if model.chat_template.is_none() {
        bail!("{} has no chat template; use nvllm generate", model.name);
    }
    let interrupt = Listener::start();
    let mut chat =
        Conversation { system: args.system.clone(), thinking: args.thinking, messages: Vec::new() };
    chat.clear();
    if let Some(message) = &args.message {
        return chat.answer(message, &engine, &model, args, &interrupt);
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
                chat.answer(line, &engine, &model, args, &interrupt).unwrap_or_else(|e| note!("error: {e:#}"))
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

    /// Answers `message`; both become part of the conversation unless something failed.
    fn answer(
        &mut self,
        message: &str,
        engine: &Engine,
        model: &Model,
        args: &Chat,
        interrupt: &Listener,
    ) -> Result<()> {
        let mut messages = self.messages.clone();
        messages.push(json!({ "role": "user", "content": message }));
        let prompt = self.render(&messages, model)?;
        let ids = model.tokenizer()?.encode(&prompt, EncodeOptions::default())?;
        let sampling = params(&args.sampling, model);
        let seed = sampling.seed;
        let request = Request {
            prompt: ids.into_iter().map(TokenId).collect(),
            sampling,
            max_tokens: args.sampling.max_tokens,
            stop: args.sampling.stop.clone(),
            ..Request::default()
        };
        let mut stream = engine.submit(request)?;
        let (mut out, mut text) = (std::io::stdout().lock(), String::new());
        let finished = print_text(&mut stream, &mut out, interrupt, &mut text)?;
        writeln!(out)?;
        messages.push(json!({ "role": "assistant", "content": text }));
        self.messages = messages;
        match finished {
            Some(finished) => {
                note!("{}, seed {seed}", Speed::of(&finished, engine, model)?.line(&finished));
            }
            None => note!("(interrupted)"),
        }
        Ok(())
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
        match &model.chat_template {
            Some(template) => Ok(template.render(&input)?),
            None => bail!("{} has no chat template", model.name),
        }
    }
}
