//! One run: the golden fixtures, then `nvllm bench`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use nvllm_bench::{files, source};
use nvllm_core::Backend;

use super::args::Args;
use super::gate;
use crate::{bundle, synth, wgpu};

/// Seed of random weights.
const SEED: u64 = 0;
/// Seconds that one case may take.
const CASE_SECONDS: &str = "180";
const QUICK_CASE_SECONDS: &str = "40";

/// Checks, builds and measures; the exit status is that of `nvllm bench`.
pub(crate) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    let program = program(root)?;
    let mut nvllm = Command::new(&program);
    nvllm.arg("bench").args(&args.rest);
    if ["--list", "--help", "-h"].iter().any(|flag| args.has(flag)) {
        return ended(&program, &mut nvllm);
    }
    let checked = gate::check(backend(args)?.as_ref(), args.numerics());
    ensure!(checked.passed, "no measurement without correctness: {}", checked.detail);
    nvllm.args(["--checked", &checked.detail, "--commit", &commit(root, args)?]);
    nvllm.arg("--gate-model").arg(root.join("models/nvllm-tiny"));
    if !args.has_model() {
        nvllm.arg("--model").arg(random_model(root, &args.config)?);
        nvllm.args(["--weights-seed", &SEED.to_string()]);
    }
    let default = |nvllm: &mut Command, flag: &str, value: &str| {
        if !args.has(flag) {
            nvllm.args([flag, value]);
        }
    };
    default(&mut nvllm, "--backend", args.backend());
    let seconds = if args.has("--quick") { QUICK_CASE_SECONDS } else { CASE_SECONDS };
    default(&mut nvllm, "--case-seconds", seconds);
    let records = root.join(format!("bench/records/{}.jsonl", args.backend()));
    default(&mut nvllm, "--records", &records.to_string_lossy());
    if !args.no_peers {
        nvllm.arg("--peer-adapters").arg(root.join("crates/nvllm-bench/peers"));
        nvllm.arg("--peer-scratch").arg(root.join("out/bench"));
        args.peer_python.iter().for_each(|python| {
            nvllm.arg("--peer-python").arg(python);
        });
    }
    ended(&program, &mut nvllm)
}

/// Runs the program; its exit status.
fn ended(program: &Path, command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot start {}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The program: the one beside this in a bundle, which says what commit it is of; else built.
fn program(root: &Path) -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find this program")?;
    if this.with_file_name("commit").is_file() {
        return Ok(this.with_file_name("nvllm"));
    }
    let args = ["build", "--quiet", "--release", "--package", "nvllm"];
    Ok(bundle::build(root, &args, "nvllm")?.into())
}

/// The backend whose golden fixtures are checked.
fn backend(args: &Args) -> Result<Box<dyn Backend>> {
    match args.backend() {
        "cpu" => Ok(Box::new(nvllm_tests::cpu())),
        "cuda" => Ok(Box::new(nvllm_tests::cuda(true).context("--backend cuda")?)),
        "wgpu" => wgpu::open(args.value("--adapter")),
        other => bail!("--backend {other}: golden fixtures are checked on cpu, cuda and wgpu"),
    }
}

/// The directory of random weights, made now if it is not there.
fn random_model(root: &Path, config: &str) -> Result<PathBuf> {
    let file = files::base_name(config);
    let name = file.strip_suffix(".json").unwrap_or(&file);
    let dir = root.join(format!("out/bench/{name}-seed{SEED}"));
    if !dir.join("model.safetensors").is_file() {
        eprintln!("drawing the weights of {name}");
        synth::make(root, config, SEED, &dir)?;
    }
    Ok(dir)
}

/// The source that was built: as said, or as the repository says.
fn commit(root: &Path, args: &Args) -> Result<String> {
    if let Some(said) = &args.commit {
        return Ok(said.clone());
    }
    let found = source::commit(root)
        .context("the commit cannot be found: use --commit where there is no repository")?;
    Ok(found.commit + if found.dirty == Some(false) { "" } else { "-dirty" })
}
