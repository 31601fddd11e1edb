//! `cargo xtask bench`: measurements that can be believed.
//!
//! A figure is printed only from a record, and a record is written only if the same program, in the same process, computed
//! what it should ([`gate`]). Speed on a shared machine drifts by tens of percent within minutes, so nothing is compared
//! across time: a decode run is paired with a read of memory right beside it, a peer takes its turn between our own, and
//! what is reported is the median over pairs.
//!
//! Deliberately absent: figures without raw times, means, and best-of runs.

mod cpu;
mod cuda;
mod driver;
mod first_token;
mod gate;
mod machine;
mod peer;
mod readme;
mod record;
mod report;
mod sequences;

pub(crate) use machine::commit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use nvllm_core::Activations;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// The CPU backend: decode against read bandwidth, prefill, load to first token; llama.cpp beside it if installed
    Cpu(CpuArgs),
    /// The CUDA backend on a GPU: prefill, decode by batch against read bandwidth, and each op of these steps
    Cuda(cuda::Args),
    /// Rewrites README.md's table from the newest run on record
    Readme {
        /// Fail if it is stale instead
        #[arg(long)]
        check: bool,
    },
    /// Loads a model and makes one token: the process that `cpu` starts and times
    #[command(hide = true)]
    FirstToken(ModelArgs),
}

/// The model and how it runs.
#[derive(clap::Args, Clone)]
pub(crate) struct ModelArgs {
    /// Model directory (dense Qwen3 in safetensors)
    #[arg(long, conflicts_with = "config")]
    model: Option<PathBuf>,
    /// Shape of a model with random weights, made under out/bench if it is not there
    #[arg(long, default_value = "qwen3-0.6b")]
    config: String,
    /// Threads; all that affinity and cgroup quota allow if not given
    #[arg(long)]
    threads: Option<usize>,
    /// Keep each thread on one core
    #[arg(long)]
    pin: bool,
    /// Storage of values between ops
    #[arg(long, value_enum, default_value_t = ActivationsArg::Bf16)]
    activations: ActivationsArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActivationsArg {
    Bf16,
    F32,
}

impl ActivationsArg {
    const fn core(self) -> Activations {
        match self {
            Self::Bf16 => Activations::Bf16,
            Self::F32 => Activations::F32,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

/// Arguments of `bench cpu`.
#[derive(clap::Args)]
pub(crate) struct CpuArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Fewer rounds: a look, not a measurement to quote
    #[arg(long)]
    quick: bool,
    /// Python with llama-cpp-python, gguf and numpy
    #[arg(long, default_value = "python3")]
    peer_python: PathBuf,
    /// File that the records are appended to [default: bench/records/cpu.jsonl]
    #[arg(long)]
    records: Option<PathBuf>,
}

/// Measures.
pub(crate) fn command(root: &Path, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Cpu(args) => cpu::command(root, args),
        Command::Cuda(args) => cuda::command(root, args),
        Command::Readme { check } => readme::command(root, *check),
        Command::FirstToken(args) => first_token::child(root, args),
    }
}
