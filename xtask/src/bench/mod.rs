//! `cargo xtask bench`: the face of `nvllm-bench` for those who work on nvLLM.
//!
//! It adds what the crate may not know: the CPU backend, the golden fixtures, models of random
//! weights, the repository's commit, the peers' adapters, and the real program, freshly built.

mod gate;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use nvllm_core::{Activations, Numerics};

/// What to measure, and how.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Args {
    /// Workloads; all if none is named
    workloads: Vec<String>,
    /// List the workloads with their definitions
    #[arg(long)]
    list: bool,
    /// Fewer sizes and rounds: a look, not a measurement to quote
    #[arg(long)]
    quick: bool,
    /// Model directory (Hugging Face layout)
    #[arg(long, conflicts_with = "config")]
    model: Option<PathBuf>,
    /// Shape of a model with random weights, made under out/bench if it is not there
    #[arg(long, default_value = "qwen3-0.6b")]
    config: String,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = BackendArg::Cpu)]
    backend: BackendArg,
    /// Which GPU of the CUDA backend
    #[arg(long, default_value_t = 0)]
    gpu: usize,
    /// Threads of the CPU backend; all that affinity and cgroup quota allow if not given
    #[arg(long)]
    threads: Option<usize>,
    /// Keep each thread on one core
    #[arg(long)]
    pin: bool,
    /// Storage of values between ops, and of the KV cache
    #[arg(long, value_enum, default_value_t = ActivationsArg::Bf16)]
    activations: ActivationsArg,
    /// What is promised about the order of sums
    #[arg(long, value_enum, default_value_t = NumericsArg::Invariant)]
    numerics: NumericsArg,
    /// Tokens in one step; 512 on a CPU and 8192 on a GPU if not given
    #[arg(long)]
    max_num_batched_tokens: Option<usize>,
    /// Share of the nano set's requests and lengths; as much as fits the time if not given
    #[arg(long)]
    scale: Option<f64>,
    /// Seconds that one case may take; larger ones are skipped [default: 180, 40 with --quick]
    #[arg(long)]
    case_seconds: Option<f64>,
    /// A Python in which peers may be installed; may be given several times
    #[arg(long, default_value = "python3")]
    peer_python: Vec<PathBuf>,
    /// Measure without peers
    #[arg(long)]
    no_peers: bool,
    /// Also write a trace of every op of a prompt and some decoded tokens (Perfetto opens it)
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// The source's commit where there is no repository to ask, with `-dirty` if its files differed
    #[arg(long)]
    commit: Option<String>,
    /// File that the records are appended to [default: bench/records/cpu.jsonl, or cuda.jsonl]
    #[arg(long)]
    records: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BackendArg {
    Cpu,
    Cuda,
}

impl BackendArg {
    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
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

#[derive(Clone, Copy, ValueEnum)]
enum NumericsArg {
    Invariant,
    Fast,
}

impl NumericsArg {
    const fn core(self) -> Numerics {
        match self {
            Self::Invariant => Numerics::Invariant,
            Self::Fast => Numerics::Fast,
        }
    }
}

/// Measures.
pub(crate) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    if args.list {
        for workload in nvllm_bench::workload::REGISTRY {
            println!("{:9} {:4} {}", workload.name(), workload.code(), workload.definition());
        }
        return Ok(ExitCode::SUCCESS);
    }
    run::command(root, args)
}
