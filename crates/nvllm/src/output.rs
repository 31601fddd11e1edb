//! Lines for standard output and standard error.
//!
//! `println!` panics where a pipe is closed or a disk is full. Here a line of a result that cannot
//! be written is an error of the command, and a notice that nobody can read is dropped.

use std::sync::atomic::{AtomicBool, Ordering};

static QUIET: AtomicBool = AtomicBool::new(false);
static AS_MESSAGES: AtomicBool = AtomicBool::new(false);

/// Drops all notices from now on (`--quiet`).
pub(crate) fn set_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Makes notices and errors messages like those of the libraries from now on: a log has one form.
pub(crate) fn set_notices_as_messages() {
    AS_MESSAGES.store(true, Ordering::Relaxed);
}

/// Whether notices are dropped.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Writes a line of a result to standard output: `io::Result<()>`.
macro_rules! outln {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($arg)*)
    }};
}

/// Writes a line for people to standard error, unless `--quiet`.
macro_rules! note {
    ($($arg:tt)*) => {{
        if !$crate::output::is_quiet() {
            $crate::output::warn(format_args!($($arg)*));
        }
    }};
}

pub(crate) use {note, outln};

/// Writes a line to standard error, whether `--quiet` or not. What a terminal would obey in it is
/// shown instead.
pub(crate) fn warn(line: std::fmt::Arguments) {
    use std::io::Write as _;
    let line = crate::words::printable(&line.to_string());
    if AS_MESSAGES.load(Ordering::Relaxed) {
        if let Some(error) = line.strip_prefix("error: ") {
            tracing::error!("{error}");
        } else {
            tracing::info!("{line}");
        }
        return;
    }
    // Nowhere is left to report to if standard error fails.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether the reader of our output has closed it: not our failure (`nvllm generate .. | head -1`).
pub(crate) fn is_closed(e: &anyhow::Error) -> bool {
    e.chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
