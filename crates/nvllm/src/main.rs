//! `nvllm`: run a language model from the command line.
//!
//! Each command is one file under `commands`. What they share: [`cli`] (flags), [`environment`] (the only file that reads
//! environment variables), [`built_in`] (the only file that knows of cargo features), [`models`] (from a name to an open
//! model), [`backends`] (from a flag to a backend), [`report`] (the closing line).
//!
//! Results go to standard output, everything else to standard error. The exit code is 0 on success, 1 on an error, 2 on a
//! bad command line.

mod backends;
mod built_in;
mod cli;
mod commands;
mod environment;
mod models;
mod report;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    show_warnings();
    let cli = cli::Cli::parse();
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            // One line: the causes follow the message.
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the libraries warn of (a slower way taken, a cache that cannot be written) goes to standard error, a line each.
fn show_warnings() {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .init();
}

/// Whether whoever read our output has closed it: not our failure (`nvllm generate .. | head -1`).
fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
