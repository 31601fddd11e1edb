//! `nvllm chat`: a conversation on the terminal, or one that is read from a pipe.
//!
//! What is typed comes through [`input`] (which on a terminal reads through [`terminal`]),
//! [`entry`] tells commands from messages, [`conversation`] makes the prompt and keeps it inside
//! the context, [`thinking`] dims thoughts. With tools, [`calls`] reads the answers.

mod calls;
mod conversation;
mod entry;
mod file;
mod input;
mod settings;
#[cfg(unix)]
mod terminal;
mod thinking;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use nvllm_engine::grammar::{Grammar, GrammarCompiler, StructuredOutput, ToolCalls, ToolChoice};
use nvllm_engine::{Engine, Model, Request};
use serde_json::{Value, json};

use self::calls::{Call, Tools, WithCalls};
use self::conversation::{Conversation, TokenBudget, plain_answer};
use self::entry::{Command, Entry};
use self::input::{Input, Typed};
use self::settings::{Settings, is_on};
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
/set NAME VALUE  temperature, top_k, top_p, min_p, seed, max_tokens (default: takes it back), json on|off,
               tool_choice auto|required, system TEXT, think on|off; /set alone lists them
/retry         answer the last message once more
/save FILE     write the conversation to a file, as a JSON list of messages
/load FILE     go on from such a file
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
    /// Tools that the model may call: a file with a JSON list in OpenAI's form. You are asked for
    /// the result of each call.
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
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
    let tools = args.tools.as_deref().map(|path| Tools::open(path, &model)).transpose()?;
    let list = tools.as_ref().map(|tools| tools.list.clone());
    let mut session = Session {
        args,
        engine: &engine,
        model: &model,
        conversation: Conversation::new(args.system.clone(), args.thinking, list),
        settings: Settings::new(args.sampling.clone()),
        tools,
        compiler: None,
        stopped: false,
    };
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
    settings: Settings,
    tools: Option<Tools>,
    /// Made with the first answer that has a form.
    compiler: Option<GrammarCompiler>,
    /// Whether Ctrl-C ended the last answer.
    stopped: bool,
}

impl Session<'_> {
    /// Answers the message of the command line.
    fn answer_one(&mut self, message: &str) -> Result<()> {
        match self.answer(&[user(message)], &Listener::start())? {
            (Ending::Interrupted, _) => bail!(Interrupted),
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
            let entry = match input.read("> ")? {
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
            messages +=
                usize::from(!matches!(entry, Ok(Entry::Command(ref command)) if *command != Command::Retry));
            let answered = match entry {
                Ok(Entry::Command(Command::Bye)) => break,
                Ok(Entry::Command(Command::Retry)) => match self.conversation.take_back() {
                    Some((message, turn)) => {
                        let left = self.conversation.num_messages();
                        let answered = self.respond(&message, &mut input, listening.as_ref());
                        // Without a new answer the old one stays.
                        self.conversation.put_back(turn, left);
                        answered
                    }
                    None => Err(anyhow!("there is no message to answer once more")),
                },
                Ok(Entry::Command(command)) => match self.obey(command) {
                    Ok(()) => continue,
                    Err(e) => {
                        messages += 1;
                        Err(e)
                    }
                },
                Ok(Entry::Message(message)) => self.respond(&message, &mut input, listening.as_ref()),
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

    /// Answers a message, and goes on with the results of the calls that the answer makes, as they
    /// are typed.
    fn respond(&mut self, message: &str, input: &mut Input, listening: Option<&Listener>) -> Result<Ending> {
        let mut new = vec![user(message)];
        loop {
            let first = self.conversation.num_calls();
            let (ending, calls) = match listening {
                Some(listener) => {
                    listener.clear();
                    self.answer(&new, listener)
                }
                None => self.answer(&new, &Listener::start()),
            }?;
            if calls.is_empty() || ending == Ending::Interrupted {
                return Ok(ending);
            }
            new.clear();
            for (at, call) in calls.iter().enumerate() {
                match input.read(&format!("{} returns> ", call.name))? {
                    Typed::Line(text) | Typed::Block(text) => new.push(calls::result(first + at, &text)),
                    Typed::Interrupted | Typed::Unfinished | Typed::EndOfInput => {
                        note!("(the call has no result; /retry answers the message once more)");
                        return Ok(ending);
                    }
                }
            }
        }
    }

    /// What an answer to `new` messages must follow.
    fn grammar(&mut self, new: &[Value]) -> Result<Option<Grammar>> {
        let is_first = new.first().is_some_and(|message| message["role"] == "user");
        let output = match &self.tools {
            Some(tools) if self.settings.must_call && is_first => match tools.format.tools {
                Some(format) => StructuredOutput::ToolCalls(ToolCalls {
                    format,
                    tools: tools.format.tool_list.to_vec(),
                    choice: ToolChoice::Required,
                    parallel: true,
                }),
                None => return Ok(None),
            },
            _ if self.settings.json => StructuredOutput::JsonObject,
            _ => return Ok(None),
        };
        let compiler = match self.compiler.take() {
            Some(compiler) => compiler,
            None => GrammarCompiler::new(self.model)?,
        };
        Ok(Some(self.compiler.insert(compiler).compile(&output)?))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "system" => self.obey(Command::System(if value == "default" { "" } else { value }.to_owned()))?,
            "think" if value == "default" => self.conversation.thinking = None,
            "think" => self.conversation.thinking = Some(is_on(name, value)?),
            "json" if self.tools.is_some() => {
                bail!("/set json is for conversations without --tools: a call is no JSON object")
            }
            "tool_choice" if self.tools.is_none() => {
                bail!("/set tool_choice is for conversations with --tools")
            }
            _ => self.settings.set(name, value)?,
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<()> {
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
            Command::Set(Some((name, value))) => self.set(&name, &value)?,
            Command::Set(None) => self.settings.lines().iter().for_each(|line| warn(format_args!("{line}"))),
            Command::Save(file) => {
                let messages = self.conversation.all();
                file::save(Path::new(&file), &messages)?;
                note!("({} messages are in {file})", messages.len());
            }
            Command::Load(file) => {
                let messages = file::load(Path::new(&file))?;
                note!("({} messages; the conversation goes on from there)", messages.len());
                self.conversation.replace(messages);
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
            Command::Bye | Command::Retry => {}
        }
        Ok(())
    }

    /// Answers `new` messages; they and the answer become part of the conversation unless something
    /// failed. What came before Ctrl-C is an answer. The calls that it makes, besides.
    fn answer(&mut self, new: &[Value], listener: &Listener) -> Result<(Ending, Vec<Call>)> {
        let model = self.model;
        let grammar = self.grammar(new)?;
        let flags = &self.settings.sampling;
        let max_tokens = flags.max_tokens(model, MAX_TOKENS);
        let budget = TokenBudget { context: self.engine.info()?.limits.context, max_tokens };
        let prompt = self.conversation.prompt(new, model, budget)?;
        if prompt.dropped > 0 {
            let turns = if prompt.dropped == 1 { "turn is" } else { "turns are" };
            note!("(the context is full: the oldest {} {turns} left out)", prompt.dropped);
        }
        let sampling = params(flags, model);
        let seed = sampling.seed;
        let tokenizer = model.tokenizer()?;
        let request = Request {
            prompt: prompt.ids.clone(),
            sampling,
            max_tokens,
            stop: flags.stop(model),
            grammar,
            may_think: true,
            show_special_tokens: self
                .tools
                .as_ref()
                .is_some_and(|tools| tools.format.needs_special_tokens(tokenizer)),
            ..Request::default()
        };
        let receiving = Receiving::submit(self.engine, request)?;
        let mut out = std::io::stdout().lock();
        let dims = out.is_terminal() && environment::allows_color();
        let mut plain = Shown::new(dims, prompt.opens_thinking);
        let parser = self.tools.as_ref().map(|tools| tools.format.parser(prompt.opens_thinking));
        let mut with_calls = parser.map(|parser| WithCalls::new(parser, dims));
        let answer = receiving.answer(listener, |text, _| {
            let shown = with_calls.as_mut().map_or_else(|| plain.push(text), |parts| parts.push(text));
            write!(out, "{shown}")?;
            Ok(out.flush()?)
        })?;
        let rest = with_calls.as_mut().map_or_else(|| plain.finish(), WithCalls::finish);
        writeln!(out, "{rest}")?;
        self.stopped = answer.ending == Ending::Interrupted;
        // Where Ctrl-C came before anything else nothing was said.
        if !(self.stopped && answer.text.is_empty()) {
            let first = self.conversation.num_calls();
            let message = match &with_calls {
                Some(parts) => parts.message(first),
                None => plain_answer(prompt.opens_thinking, &answer.text),
            };
            self.conversation.keep(prompt, message);
        }
        let measured = self.args.roofline && !self.stopped;
        let roofline = if measured { Roofline::measure(&answer, self.engine, model) } else { None };
        note!("{}", Report { answer: &answer, seed, roofline }.line());
        Ok((answer.ending, with_calls.map(|parts| parts.calls).unwrap_or_default()))
    }
}

fn user(text: &str) -> Value {
    json!({ "role": "user", "content": text })
}
