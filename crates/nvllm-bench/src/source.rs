//! What this was built from.

use std::path::Path;
use std::process::Command;

use crate::record::Source;

/// Commit of the repository at `root`, and whether its tracked files differ from it. `None` if it
/// is none.
pub fn commit(root: &Path) -> Option<Source> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
    Some(Source { commit, dirty: Some(changes.is_none_or(|changes| !changes.is_empty())) })
}
