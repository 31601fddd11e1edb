//! Other programs, run to their end.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs `command`. Errors, with the whole command line, if it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
