//! One file a command: its flags and what it does.

pub(crate) mod answer;
mod bench;
mod chat;
mod completions;
mod convert;
mod doctor;
mod eval;
mod generate;
mod info;
mod list;
mod logits;
mod plan;
mod prompts;
mod pull;
mod quantize;
mod rm;
pub(crate) mod serve;
mod structured;
mod verify;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory as _, Parser, Subcommand};

use crate::words::UsageError;

/// An LLM inference engine: fast, the same answer every time, in one binary.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    disable_help_flag = true,
    after_help = "Examples:
  nvllm                              serve the demo model over HTTP
  nvllm generate \"Once upon a time\"
  nvllm chat
  nvllm COMMAND --help

Without a command it is serve. Without --model a small demo model answers, which is part of the program.
Exit codes: 0 done, 1 failed, 2 bad command line, 130 ended by Ctrl-C."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print results and errors only: no progress, notices, warnings or closing line.
    #[arg(short, long, global = true, help_heading = "Messages")]
    pub quiet: bool,
    /// Say more of what is done and chosen; twice for debugging.
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Messages")]
    pub verbose: u8,
    /// Print help.
    #[arg(short, long, global = true, action = ArgAction::Help, help_heading = "Messages")]
    help: Option<bool>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Continue a text.
    Generate(generate::Generate),
    /// Talk to a model.
    Chat(chat::Chat),
    /// Serve a model over HTTP, as OpenAI's API.
    Serve(Box<serve::Serve>),
    /// Write a model's logits for given token ids to a safetensors file.
    Logits(logits::Logits),
    /// Describe a model: architecture, parameters, bytes by kind.
    Info(info::Info),
    /// Plan memory: what a model takes under given limits, and what fits.
    Plan(plan::Plan),
    /// Write a GGUF model as safetensors, in Hugging Face's layout.
    Convert(convert::Convert),
    /// Write a model as a quantised checkpoint, for this program and others.
    Quantize(quantize::Quantize),
    /// Fetch a model from the hub into its cache.
    Pull(pull::Pull),
    /// List the models that are here: the demo, and what the hub's cache holds.
    List(list::List),
    /// Remove fetched models from the cache.
    Rm(rm::Rm),
    /// Measure a model on this machine, against the limits of its hardware.
    Bench(bench::Bench),
    /// Measure how well a model predicts a text, and how far it is from another.
    Eval(eval::Eval),
    /// Prove that a request's tokens do not depend on what runs beside it.
    Verify(verify::Verify),
    /// Say what this machine has for running models, and what is missing.
    Doctor(doctor::Doctor),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
}

/// How clap ends the process on a bad command line, for what its own attributes cannot say.
pub(crate) fn usage_error(message: &UsageError) -> ! {
    Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::List(args) => list::run(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
    }
}
