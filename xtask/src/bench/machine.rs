//! Facts about the machine and the source, as a record holds them. What cannot be found out is said to be unknown.

use std::path::Path;
use std::process::Command;

use super::record::Machine;

/// The machine, now.
pub(super) fn machine(memory_bytes: usize) -> Machine {
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    Machine {
        cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
        num_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes,
        os: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
        load_before: read("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse().ok()),
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Commit of the repository, and whether its tracked files differ from it.
pub(crate) fn commit(root: &Path) -> (String, bool) {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".into());
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
    (commit, changes.is_none_or(|changes| !changes.is_empty()))
}

/// The time of day, UTC, to the second.
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
