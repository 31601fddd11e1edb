//! `cargo xtask bundle`: what tests and measures a GPU, as one folder for a machine without Rust
//! and without this repository.
//!
//! Executables are stripped; the CUDA kernels are inside the program, the demo model is beside it,
//! as a test reads it. `gpu-suite.sh` in the bundle runs everything. The folder is also packed into
//! one file.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use nvllm_bench::source;

use crate::kernels;
use crate::process::run;

/// Test executables, by the package and the name of the test.
const TESTS: [(&str, &str); 4] = [
    ("nvllm-cuda", "parity"),
    ("nvllm-tests", "golden_fixtures"),
    ("nvllm-tests", "golden_text"),
    ("nvllm-tests", "metamorphic"),
];

/// What the executables read, by path in the repository.
const FILES: [&str; 5] =
    ["tests/golden", "tests/python", "models/nvllm-tiny", "models/configs", "crates/nvllm-bench/peers"];

/// How the real program is built: with the kernels, and without the demo model, which lies beside
/// it.
const PROGRAM: [&str; 7] =
    ["build", "--release", "--package", "nvllm", "--no-default-features", "--features", "embedded-kernels"];

/// Builds and copies everything into `.bundle/gpu`, and packs that.
pub(crate) fn command(root: &Path) -> Result<ExitCode> {
    // Of what is built, not of what the tree may be when all is built.
    let source = source::commit(root).context("the commit cannot be found: git is needed here")?;
    let bundle = root.join(".bundle/gpu");
    if bundle.exists() {
        std::fs::remove_dir_all(&bundle).with_context(|| format!("cannot clear {}", bundle.display()))?;
    }
    std::fs::create_dir_all(&bundle).with_context(|| format!("cannot make {}", bundle.display()))?;
    kernels::ensure_archive(root)?;
    let xtask = build(root, &["build", "--release", "--package", "xtask"], "xtask")?;
    strip(Path::new(&xtask), &bundle.join("xtask"))?;
    strip(Path::new(&build(root, &PROGRAM, "nvllm")?), &bundle.join("nvllm"))?;
    for (package, test) in TESTS {
        let args = ["test", "--no-run", "--package", package, "--test", test];
        strip(Path::new(&build(root, &args, test)?), &bundle.join(test))?;
    }
    for path in FILES {
        let to = bundle.join(path);
        let parent = to.parent().context("a path in the bundle")?;
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        run(Command::new("cp").arg("-r").arg(root.join(path)).arg(&to))?;
    }
    run(Command::new("cp").arg(root.join("xtask/gpu-suite.sh")).arg(&bundle))?;
    let text = format!("{}{}\n", source.commit, if source.dirty == Some(true) { "-dirty" } else { "" });
    std::fs::write(bundle.join("commit"), text).context("cannot write the commit")?;
    let archive = bundle.with_extension("tar.xz");
    let mut tar = Command::new("tar");
    // Packed for the way to the other machine; more than this takes longer than it saves.
    tar.env("XZ_OPT", "-3 -T0").arg("-C").arg(root.join(".bundle")).arg("-cJf").arg(&archive).arg("gpu");
    run(&mut tar)?;
    println!("{}: unpack it (python3 -m tarfile -e FILE) and run gpu/gpu-suite.sh", archive.display());
    Ok(ExitCode::SUCCESS)
}

/// Runs cargo and returns the executable that it made for the target `name`.
pub(crate) fn build(root: &Path, args: &[&str], name: &str) -> Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(args)
        .args(["--locked", "--message-format", "json-render-diagnostics"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo {} failed", args.join(" "));
    executable(&String::from_utf8_lossy(&output.stdout), name)
        .with_context(|| format!("cargo {} made no executable `{name}`", args.join(" ")))
}

/// The executable of the target `name` in cargo's messages.
fn executable(messages: &str, name: &str) -> Option<String> {
    let all = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut of_name = all.filter(|message| message["target"]["name"] == name);
    of_name.find_map(|message| Some(message["executable"].as_str()?.to_owned()))
}

/// Copies an executable without its symbols.
pub(crate) fn strip(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").arg("-o").arg(to).arg(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_of_a_target_is_found() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"parity\"},\"executable\":null}\n\
                        not json\n{\"target\":{\"name\":\"parity\"},\"executable\":\"/t/parity-1\"}\n";
        assert_eq!(executable(messages, "parity").as_deref(), Some("/t/parity-1"));
        assert_eq!(executable(messages, "other"), None);
    }
}
