//! How messages are written: as every command does it, or as a server's log.

use tracing_subscriber::filter::LevelFilter;

use super::args::LogFormat;
use crate::commands::{Cli, Command};
use crate::output;

/// What the libraries say goes to standard error, a line each: warnings, of a server what it does
/// too, and more with each `-v`.
pub(crate) fn show_messages(cli: &Cli) {
    let format = match &cli.command {
        Command::Serve(args) => Some(args.logs.log_format),
        _ => None,
    };
    let level = match (cli.quiet, cli.verbose + u8::from(format.is_some())) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, 2) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        // A message that standard error does not take is dropped, and not panicked about.
        .log_internal_errors(false);
    match format {
        None => lines.without_time().init(),
        Some(LogFormat::Text) => lines.init(),
        Some(LogFormat::Json) => {
            output::set_notices_as_messages();
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
}
