//! `nvllm chat`: a conversation on the terminal, or one that is read from a pipe.
//!
//! What is typed comes through [`input`] (which on a terminal reads through [`terminal`]),
//! [`entry`] tells commands from messages, [`conversation`] makes the prompt and keeps it inside
//! the context, [`thinking`] dims thoughts.

mod conversation;
mod entry;
mod input;
#[cfg(unix)]
mod terminal;
mod thinking;

use std::io::{IsTerminal as _, Read as _, Write as _};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use nvllm_core::TokenId;
use nvllm_engine::{Engine, Model, Request};

use self::conversation::{Conversation, TokenBudget};
use self::entry::{Command, Entry};
use self::input::{Input, Typed};
use self::thinking::Shown;
use super::answer::{Ending, Receiving};
use crate::flags::{ModelArgs, SamplingArgs, params};
use crate::interrupt::{Interrupted, Listener};
use crate::output::{note, warn};
use crate::report::{Report, Roofline};
use crate::words::error_line;
use crate::{environment, models};

const HELP: &str = "\
/help          this list
/clear         forget the conversation (also /new)
/system TEXT   set the system message and forget the conversation; without TEXT: remove it
/think on|off  whether the model thinks before it answers, where its template knows that
/history       show the conversation
/bye           leave (also /exit, /quit, Ctrl-D)
//TEXT         send /TEXT as a message
\"\"\"            begins and ends a message of several lines
Ctrl-C         stop the answer, or clear the line";

/// Tokens of an answer if nobody says otherwise: a small model can go on until the context is full.
const MAX_TOKENS: usize = 1024;

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm chat
  nvllm chat -m Qwen/Qwen3-0.6B --thinking false \"What is a tape?\"
  git diff | nvllm chat -m Qwen/Qwen3-0.6B --system \"Summarise this change.\" -

In a conversation /help lists the commands. A conversation that is read from a pipe answers line by line; the exit code
is 1 if a message could not be answered.")]
pub(crate) struct Chat {
    /// A message to answer, `-` reads it from standard input; without one, a conversation is read
    /// line by line.
    pub message: Option<String>,
    /// A system message.
    #[arg(long)]
    pub system: Option<String>,
    /// Whether the model thinks before it answers (for templates that know `enable_thinking`).
    #[arg(long, value_name = "BOOL")]
    pub thinking: Option<bool>,
    /// Measure the memory's read bandwidth after the first answer, and say how near decoding came
    /// to it.
    #[arg(long)]
    pub roofline: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

pub(super) fn run(args: &Chat) -> Result<()> {
    args.sampling.check()?;
    let message = args.message.as_deref().map(message).transpose()?;
    let (engine, model) = models::start(&args.model, &args.sampling, None, 1)?;
    model.chat_template()?;
    args.sampling.warn_of_defaults(&model);
    let conversation = Conversation::new(args.system.clone(), args.thinking);
    let mut session = Session { args, engine: &engine, model: &model, conversation, stopped: false };
    let result = match message {
        Some(message) => session.answer_one(&message),
        None => session.converse(),
    };
    if session.stopped {
        // Joining the engine's thread would wait for the step that it runs, which may be a long
        // prompt's.
        std::mem::forget(engine);
    }
    result
}

/// The message of the command line.
fn message(text: &str) -> Result<String> {
    let mut message = text.to_owned();
    if text == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        message = String::from_utf8_lossy(&bytes).into_owned();
    }
    if message.trim().is_empty() {
        bail!("the message is empty; give a text to answer");
    }
    Ok(message)
}

/// A model, and a conversation with it.
struct Session<'a> {
    args: &'a Chat,
    engine: &'a Engine,
    model: &'a Model,
    conversation: Conversation,
    /// Whether Ctrl-C ended the last answer.
    stopped: bool,
}

impl Session<'_> {
    /// Answers the message of the command line.
    fn answer_one(&mut self, message: &str) -> Result<()> {
        match self.answer(message, &Listener::start())? {
            Ending::Interrupted => bail!(Interrupted),
            _ => Ok(()),
        }
    }

    /// Answers what is typed or piped until its end.
    fn converse(&mut self) -> Result<()> {
        let mut input = Input::open(environment::state_dir());
        let at_terminal = std::io::stdin().is_terminal();
        if at_terminal {
            note!("{}; /help lists commands", self.model.name);
        }
        // A line editor makes Ctrl-C a key. Where there is none it ends the process, unless an
        // answer listens.
        let listening = input.is_editor().then(Listener::start);
        let (mut messages, mut failed, mut told_how_to_leave) = (0, 0, false);
        loop {
            let entry = match input.read()? {
                Typed::Line(text) | Typed::Block(text) if text.trim().is_empty() => continue,
                Typed::Line(text) => Entry::of(&text),
                Typed::Block(text) => Ok(Entry::Message(text)),
                Typed::Unfinished => {
                    Err(anyhow!("a message that begins with \"\"\" ends with \"\"\"; this one has no end"))
                }
                Typed::Interrupted => {
                    if !std::mem::replace(&mut told_how_to_leave, true) {
                        note!("(Ctrl-D or /bye leaves)");
                    }
                    continue;
                }
                Typed::EndOfInput => break,
            };
            messages += usize::from(!matches!(entry, Ok(Entry::Command(_))));
            let answered = match entry {
                Ok(Entry::Command(Command::Bye)) => break,
                Ok(Entry::Command(command)) => {
                    self.obey(command);
                    continue;
                }
                Ok(Entry::Message(message)) => match &listening {
                    Some(listener) => {
                        listener.clear();
                        self.answer(&message, listener)
                    }
                    None => self.answer(&message, &Listener::start()),
                },
                Err(e) => Err(e),
            };
            match answered {
                Ok(Ending::Interrupted) if !at_terminal => bail!(Interrupted),
                Ok(_) => {}
                // Nobody sees the answers any more.
                Err(e) if e.chain().any(<dyn std::error::Error>::is::<std::io::Error>) => return Err(e),
                // A message that is too long, say: told, not the end.
                Err(e) => {
                    failed += 1;
                    warn(format_args!("error: {}", error_line(&e)));
                }
            }
        }
        if failed > 0 && !at_terminal {
            bail!("{failed} of {messages} messages could not be answered");
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            // Asked for, so shown with --quiet too.
            Command::Help => warn(format_args!("{HELP}")),
            Command::History => self.conversation.print(),
            Command::Clear => {
                self.conversation.clear();
                note!("(the conversation is forgotten)");
            }
            Command::System(text) => {
                let what = if text.is_empty() { "removed" } else { "set" };
                self.conversation.set_system(Some(text).filter(|text| !text.is_empty()));
                note!("(system message {what}; a new conversation begins)");
            }
            Command::Think(Some(on)) => self.conversation.thinking = Some(on),
            Command::Think(None) => {
                let now = match self.conversation.thinking {
                    Some(true) => "on",
                    Some(false) => "off",
                    None => "as the model's template has it",
                };
                warn(format_args!("thinking is {now}; /think on or /think off"));
            }
            Command::Bye => {}
        }
    }

    /// Answers `message`; both become part of the conversation unless something failed. What came
    /// before Ctrl-C is an answer.
    fn answer(&mut self, message: &str, listener: &Listener) -> Result<Ending> {
        let (args, model) = (self.args, self.model);
        let max_tokens = args.sampling.max_tokens(model, MAX_TOKENS);
        let budget = TokenBudget { context: self.engine.info()?.limits.context, max_tokens };
        let prompt = self.conversation.prompt(message, model, budget)?;
        if prompt.dropped > 0 {
            let turns = if prompt.dropped == 1 { "turn is" } else { "turns are" };
            note!("(the context is full: the oldest {} {turns} left out)", prompt.dropped);
        }
        let sampling = params(&args.sampling, model);
        let seed = sampling.seed;
        let request = Request {
            prompt: prompt.ids.iter().copied().map(TokenId).collect(),
            sampling,
            max_tokens,
            stop: args.sampling.stop(model),
            ..Request::default()
        };
        let receiving = Receiving::submit(self.engine, request)?;
        let mut out = std::io::stdout().lock();
        let dims = out.is_terminal() && environment::allows_color();
        let mut shown = Shown::new(dims, prompt.opens_thinking());
        let answer = receiving.answer(listener, |text, _| {
            write!(out, "{}", shown.push(text))?;
            Ok(out.flush()?)
        })?;
        writeln!(out, "{}", shown.finish())?;
        self.stopped = answer.ending == Ending::Interrupted;
        // Where Ctrl-C came before anything else nothing was said.
        if !(self.stopped && answer.text.is_empty()) {
            self.conversation.keep(prompt, &answer.text);
        }
        let measured = args.roofline && !self.stopped;
        let roofline = if measured { Roofline::measure(&answer, self.engine, model) } else { None };
        note!("{}", Report { answer: &answer, seed, roofline }.line());
        Ok(answer.ending)
    }
}
