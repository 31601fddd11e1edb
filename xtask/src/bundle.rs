//! `cargo xtask bundle`: what tests and measures a GPU on a machine without Rust, beside a
//! checkout.
//!
//! It holds executables, with CUDA kernels inside the program, and nothing that the repository has:
//! models, fixtures, peers and scripts are read from the checkout. Executables are stripped, and
//! packed into one file. `xtask/gpu-suite.sh` runs all of it from the checkout's root.
//!
//! Checkout and packed bundle together have to be small enough to travel: [`MOST_MIB`]. Kernels for
//! all architectures are not, so the program has those of the GPU that is meant; tests compile
//! theirs there. Nor is there room for the wgpu backend: a bundle for that holds the two programs
//! with it, and neither kernels nor tests.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use nvllm_bench::source;
use nvllm_cuda::compile::Target;

use crate::kernels;
use crate::process::run;

/// How the programs are built: with the kernels, and without the demo model, which lies in the
/// checkout. In one go, as all tests are: what they share is then compiled once.
const BUILD: &str = "build --release --package nvllm --package xtask --no-default-features \
                     --features nvllm/embedded-kernels";
const PROGRAMS: [&str; 2] = ["nvllm", "xtask"];

/// How they are built for the wgpu backend.
const BUILD_WGPU: &str = "build --release --package nvllm --package xtask --no-default-features \
                          --features nvllm/wgpu,xtask/wgpu";

/// How the tests are built.
const BUILD_TESTS: &str = "test --no-run --package nvllm-cuda --package nvllm-tests";
const TESTS: [&str; 6] =
    ["parity", "golden_fixtures", "golden_text", "metamorphic", "decode_pass", "schedule"];

/// MiB that the checkout's tracked files and the packed bundle take at most.
const MOST_MIB: f64 = 60.0;

/// Arguments of `bundle`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architectures whose kernels the program has inside
    #[arg(
        long,
        value_name = "TARGET",
        value_delimiter = ',',
        default_value = "sm_90a",
        value_parser = kernels::target
    )]
    target: Vec<Target>,
    /// The programs with the wgpu backend, in place of what CUDA needs
    #[arg(long, conflicts_with = "target")]
    wgpu: bool,
}

/// Builds and copies everything into `.bundle/gpu`, and packs that.
pub(crate) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    // Of what is built, not of what the tree may be when all is built.
    let source = source::commit(root).context("the commit cannot be found: git is needed here")?;
    let bundle = root.join(".bundle/gpu");
    if bundle.exists() {
        std::fs::remove_dir_all(&bundle).with_context(|| format!("cannot clear {}", bundle.display()))?;
    }
    std::fs::create_dir_all(&bundle).with_context(|| format!("cannot make {}", bundle.display()))?;
    let tests = TESTS.iter().flat_map(|test| ["--test", test]);
    let tests = BUILD_TESTS.split_whitespace().chain(tests).collect();
    let builds: Vec<(Vec<&str>, &[&str])> = if args.wgpu {
        vec![(BUILD_WGPU.split_whitespace().collect(), &PROGRAMS)]
    } else {
        kernels::ensure_archive(root, &args.target)?;
        vec![(BUILD.split_whitespace().collect(), &PROGRAMS), (tests, &TESTS)]
    };
    for (args, names) in builds {
        for (from, name) in build_all(root, &args, names)?.iter().zip(names) {
            strip(Path::new(from), &bundle.join(name))?;
        }
    }
    let text = format!("{}{}\n", source.commit, if source.dirty == Some(true) { "-dirty" } else { "" });
    std::fs::write(bundle.join("commit"), text).context("cannot write the commit")?;
    let archive = bundle.with_extension("tar.xz");
    let mut tar = Command::new("tar");
    // A window over all executables: they have much of their code in common.
    tar.env("XZ_OPT", "--lzma2=preset=6,dict=128MiB");
    tar.arg("-C").arg(root.join(".bundle")).arg("-cJf").arg(&archive).arg("gpu");
    run(&mut tar)?;
    println!("{}: unpack it in .bundle of a checkout and run xtask/gpu-suite.sh there", archive.display());
    let packed = std::fs::metadata(&archive).context("cannot look at the archive")?.len();
    let (text, fits) = sizes(checkout_bytes(root)?, packed);
    println!("{text}");
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Bytes of the files that git tracks, as they are in the checkout.
fn checkout_bytes(root: &Path) -> Result<u64> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let output = output.context("cannot start git")?;
    ensure!(output.status.success(), "git ls-files failed");
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let files = names.split('\0').filter(|name| !name.is_empty()).map(|name| root.join(name));
    Ok(files.filter_map(|file| Some(std::fs::symlink_metadata(file).ok()?.len())).sum())
}

/// What checkout and packed bundle take, in words, and whether that is little enough.
fn sizes(checkout: u64, packed: u64) -> (String, bool) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let all = mib(checkout + packed);
    let fits = all <= MOST_MIB;
    let verdict = if fits { "" } else { ": too much to travel" };
    let parts = format!("checkout {:.1} MiB, bundle {:.1} MiB packed", mib(checkout), mib(packed));
    (format!("{parts}: {all:.1} of {MOST_MIB:.0} MiB{verdict}"), fits)
}

/// Runs cargo and returns the executable that it made for the target `name`.
pub(crate) fn build(root: &Path, args: &[&str], name: &str) -> Result<String> {
    Ok(build_all(root, args, &[name])?.swap_remove(0))
}

/// Runs cargo and returns the executables that it made for the targets `names`, in their order.
fn build_all(root: &Path, args: &[&str], names: &[&str]) -> Result<Vec<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(args)
        .args(["--locked", "--message-format", "json-render-diagnostics"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo {} failed", args.join(" "));
    let messages = String::from_utf8_lossy(&output.stdout);
    let found = |name: &&str| {
        let none = || format!("cargo {} made no executable `{name}`", args.join(" "));
        executable(&messages, name).with_context(none)
    };
    names.iter().map(found).collect()
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
    fn what_is_too_large_to_travel_is_refused() {
        assert!(sizes(40 << 20, 20 << 20).1);
        let (text, fits) = sizes(40 << 20, 21 << 20);
        assert!(!fits && text.contains("61.0 of 60 MiB: too much"), "{text}");
    }

    #[test]
    fn tracked_files_are_counted_and_no_others() {
        let bytes = checkout_bytes(&crate::repo_root()).unwrap();
        assert!(bytes > 1 << 20 && sizes(bytes, 0).1, "{bytes}");
    }

    #[test]
    fn the_executable_of_a_target_is_found() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"parity\"},\"executable\":null}\n\
                        not json\n{\"target\":{\"name\":\"parity\"},\"executable\":\"/t/parity-1\"}\n";
        assert_eq!(executable(messages, "parity").as_deref(), Some("/t/parity-1"));
        assert_eq!(executable(messages, "other"), None);
    }
}
