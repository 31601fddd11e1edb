//! `nvllm`: run a language model from the command line.
//!
//! Each command is one file under `commands`, with its own flags. What they share: [`flags`]
//! (groups of flags), [`environment`] (the only file that reads environment variables),
//! [`built_in`] (the only file that knows of cargo features), [`models`] (from a name to an open
//! model), [`backends`] (from a flag to a backend), [`interrupt`] (Ctrl-C), [`output`] (lines that
//! may fail to be written), [`words`] (errors as a line), [`human`] (numbers as people read them),
//! [`progress`] (bars), [`rates`] (what devices reach), [`report`] (the closing line).
//!
//! Results go to standard output, everything else to standard error. The exit code is 0 on success,
//! 1 on an error, 2 on a bad command line, 130 after Ctrl-C.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod auto;
mod backends;
mod built_in;
mod commands;
mod environment;
mod flags;
mod human;
mod interrupt;
mod models;
mod out_file;
mod output;
mod progress;
mod rates;
mod report;
mod shape;
mod words;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = commands::serve::with_config(std::env::args_os().collect());
    let cli = match args.and_then(commands::Cli::try_parse_from) {
        Ok(cli) => cli,
        Err(e) => return answered_by_clap(&e),
    };
    if cli.quiet {
        output::set_quiet();
    }
    commands::serve::show_messages(&cli);
    let result = interrupt::install()
        .and_then(|()| commands::run(cli.command))
        // What is still buffered belongs to the result.
        .and_then(|()| Ok(std::io::stdout().flush()?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if output::is_closed(&e) => ExitCode::SUCCESS,
        Err(e) if e.is::<interrupt::Interrupted>() => ExitCode::from(interrupt::EXIT_CODE),
        Err(e) => {
            if let Some(error) = e.downcast_ref::<words::UsageError>() {
                commands::usage_error(error);
            }
            output::warn(format_args!("error: {}", words::error_line(&e)));
            ExitCode::from(if e.is::<words::BadArgument>() { 2 } else { 1 })
        }
    }
}

/// Prints what `clap` answers itself: help and the version on standard output, or what is wrong
/// with the command line.
fn answered_by_clap(answer: &clap::Error) -> ExitCode {
    let code = u8::try_from(answer.exit_code()).unwrap_or(2);
    match answer.print().and_then(|()| std::io::stdout().flush()).map_err(anyhow::Error::from) {
        Err(e) if !answer.use_stderr() && !output::is_closed(&e) => {
            output::warn(format_args!("error: {}", words::error_line(&e)));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(code),
    }
}
