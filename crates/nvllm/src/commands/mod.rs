//! One file a command.

mod bench;
mod chat;
mod doctor;
mod generate;
mod info;
mod logits;
mod plan;
mod sampling;

use anyhow::Result;

use crate::cli::Command;

/// Runs the command.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Bench(args) => bench::run(&args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Doctor => doctor::run(),
    }
}
