//! What CI runs, in one place: `.ci/run` prepares the machine and calls this.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{kernels, tidy};

/// One check: a name, arguments to cargo, and environment variables.
struct Step {
    name: &'static str,
    cargo: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
}

/// Everything before the tests. Lints and documentation read the same metadata of dependencies; the
/// tests build them.
const CHECKS: [Step; 5] = [
    Step { name: "fmt", cargo: &["fmt", "--all", "--check"], env: &[] },
    Step {
        name: "clippy",
        cargo: &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"],
        env: &[],
    },
    Step {
        name: "doc",
        cargo: &["doc", "--workspace", "--no-deps", "--document-private-items", "--locked", "--quiet"],
        env: &[("RUSTDOCFLAGS", "-D warnings")],
    },
    // Workspaces of their own, with the dependencies' builds of this one.
    Step { name: "model template", cargo: &apart("examples/model-template/Cargo.toml"), env: &[] },
    // A quarter of the trials.
    Step {
        name: "toy backend",
        cargo: &apart("examples/toy-backend/Cargo.toml"),
        env: &[("PROPTEST_CASES", "6")],
    },
];

/// The tests of a workspace of its own.
const fn apart(manifest: &'static str) -> [&'static str; 6] {
    ["test", "--manifest-path", manifest, "--target-dir", "target", "--quiet"]
}

/// The test command of the README, to the letter.
const TESTS: Step = Step { name: "test", cargo: &["test", "--workspace"], env: &[] };

/// Runs every check and then the tests, whose summary ends the output. Fails if anything did.
pub(crate) fn command(root: &Path) -> Result<ExitCode> {
    let mut failed = Vec::new();
    for step in &CHECKS {
        if !run(step, root)? {
            failed.push(step.name);
        }
    }
    eprintln!("==> tidy");
    if tidy::command(root)? != ExitCode::SUCCESS {
        failed.push("tidy");
    }
    eprintln!("==> kernels");
    match kernels::command(root, &kernels::Args::installing()) {
        Ok(ExitCode::SUCCESS) => {}
        Ok(_) => failed.push("kernels"),
        Err(error) => {
            eprintln!("error: {error:#}");
            failed.push("kernels");
        }
    }
    if !failed.is_empty() {
        eprintln!("==> FAILED: {}; the tests run all the same", failed.join(", "));
    }
    let passed = run(&TESTS, root)?;
    Ok(if passed && failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(step: &Step, root: &Path) -> Result<bool> {
    eprintln!("==> cargo {}", step.cargo.join(" "));
    let start = Instant::now();
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.args(step.cargo).envs(step.env.iter().copied()).current_dir(root);
    // What cargo tells this program about itself would make build scripts run again that watch
    // these variables.
    let of_this_crate = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|p| name.starts_with(p));
    for name in
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|n| of_this_crate(n))
    {
        command.env_remove(name);
    }
    let status = command.status().context("cannot start cargo")?;
    if step.name != TESTS.name {
        eprintln!(
            "    {} in {:.0} s",
            if status.success() { "passed" } else { "FAILED" },
            start.elapsed().as_secs_f64()
        );
    }
    Ok(status.success())
}
