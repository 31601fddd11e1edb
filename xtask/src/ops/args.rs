//! What to run, as the command line says it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use nvllm_conformance::{CASES, Extents, ModelOp, Setting};
use nvllm_core::weight::PUBLIC;
use nvllm_core::{Activations, Backend, DType, KvFormat, Numerics, Op, Reference, WeightFormat};
use nvllm_cpu::{CpuBackend, PoolConfig};
use nvllm_cuda::{CudaBackend, CudaOptions};

use crate::wgpu;

/// What to run.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Args {
    /// Only this op (linear); may be given several times
    #[arg(long, value_name = "OP")]
    pub(super) op: Vec<String>,
    /// Only cases whose name holds this text (4096x1024, decode, prompt)
    #[arg(long, value_name = "TEXT")]
    pub(super) case: Option<String>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Name::Cpu)]
    backend: Name,
    /// Which GPU of the CUDA backend
    #[arg(long, default_value_t = 0)]
    gpu: usize,
    /// Which adapter of the wgpu backend, by its number or a part of its name; the first GPU if not
    /// given
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Threads of the CPU backend; all that affinity and cgroup quota allow if not given
    #[arg(long)]
    threads: Option<usize>,
    /// Models whose ops are cases: names from models/configs, or paths of config.json
    #[arg(long, value_delimiter = ',', default_values = ["qwen3-0.6b", "qwen3-8b"])]
    pub(super) config: Vec<String>,
    /// Format of the models' matrices: bf16, f16, f32, or a format of `--support` (w4a16)
    #[arg(long, default_value = "bf16")]
    weights: String,
    /// Storage of values between ops
    #[arg(long, value_enum, default_value_t = Stored::Bf16)]
    activations: Stored,
    /// Storage of keys and values: f32, bf16, fp8, int8 [default: as the activations]
    #[arg(long, value_name = "DTYPE")]
    kv_cache_dtype: Option<String>,
    /// What is promised about the order of sums
    #[arg(long, value_enum, default_value_t = Order::Invariant)]
    numerics: Order,
    /// Sequences of the models' decode steps
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    batch: Vec<usize>,
    /// Tokens of each in the cache
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Tokens of the models' prompts
    #[arg(long, value_delimiter = ',', default_values_t = [512])]
    prompt_len: Vec<usize>,
    /// Runs of each case of the conformance suite
    #[arg(long, default_value_t = 24)]
    pub(super) trials: u32,
    /// Also time the models' ops
    #[arg(long)]
    pub(super) perf: bool,
    /// With --perf: append a record of every time to this file, of ops that were held to the
    /// reference
    #[arg(long, value_name = "FILE", requires = "perf")]
    pub(super) records: Option<PathBuf>,
    /// The source's commit where there is no repository to ask, with `-dirty` if its files differed
    #[arg(long)]
    pub(super) commit: Option<String>,
    /// List the cases and run none
    #[arg(long)]
    pub(super) list: bool,
    /// Print what each backend runs by a kernel, in parts, or not at all, and why; runs no case
    #[arg(long)]
    pub(super) support: bool,
    /// Print a line of JSON for each case
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Reference,
    Cpu,
    Cuda,
    Wgpu,
}

#[derive(Clone, Copy, ValueEnum)]
enum Stored {
    Bf16,
    F32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Order {
    Invariant,
    Fast,
}

impl Args {
    pub(super) fn open(&self) -> Result<Box<dyn Backend>> {
        Ok(match self.backend {
            Name::Reference => Box::new(Reference::default()),
            Name::Cpu => {
                Box::new(CpuBackend::new(&PoolConfig { threads: self.threads, ..PoolConfig::default() })?)
            }
            Name::Cuda => {
                let cache_dir = Some(std::env::temp_dir().join("nvllm-cuda-kernels"));
                let options = CudaOptions { gpu: self.gpu, cache_dir, ..CudaOptions::default() };
                Box::new(CudaBackend::new(&options).context("--backend cuda")?)
            }
            Name::Wgpu => wgpu::open(self.adapter.as_deref())?,
        })
    }

    pub(super) fn setting(&self) -> Result<Setting> {
        let activations = match self.activations {
            Stored::Bf16 => Activations::Bf16,
            Stored::F32 => Activations::F32,
        };
        let kv = match &self.kv_cache_dtype {
            None => activations.kv_format(),
            Some(name) => {
                let found = KvFormat::ALL.into_iter().find(|format| format.name() == name);
                found.with_context(|| format!("--kv-cache-dtype {name}: use f32, bf16, fp8 or int8"))?
            }
        };
        Ok(Setting { weights: format(&self.weights)?, activations, kv, numerics: self.order(), seed: 0 })
    }

    /// The format of the models' matrices, as it is named.
    pub(super) fn weights(&self) -> &str {
        &self.weights
    }

    /// Threads that compute.
    pub(super) fn num_threads(&self) -> usize {
        match self.backend {
            Name::Cpu => self.threads.unwrap_or_else(nvllm_cpu::default_threads),
            Name::Reference | Name::Cuda | Name::Wgpu => 1,
        }
    }

    pub(super) const fn order(&self) -> Numerics {
        match self.numerics {
            Order::Invariant => Numerics::Invariant,
            Order::Fast => Numerics::Fast,
        }
    }

    /// Whether a case of this name and op is asked for.
    pub(super) fn wants(&self, op: &str, name: &str) -> bool {
        (self.op.is_empty() || self.op.iter().any(|wanted| wanted == op))
            && self.case.as_ref().is_none_or(|text| name.contains(text.as_str()))
    }

    /// Whether a case of the suite is asked for. Those about equal bits in any company are not
    /// about what `fast` promises.
    pub(super) fn wants_drawn(&self, name: &str) -> bool {
        let op = op_of(name);
        self.wants(op, name) && (self.order() == Numerics::Invariant || Op::STEMS.contains(&op))
    }

    pub(super) fn check(&self) -> Result<()> {
        for op in &self.op {
            let known = Op::STEMS.contains(&op.as_str()) || CASES.iter().any(|case| op_of(case.name) == op);
            ensure!(known, "--op {op}: is unknown; there are {}", Op::STEMS.join(", "));
        }
        ensure!(
            self.batch.iter().chain(&self.prompt_len).all(|&n| n > 0),
            "--batch, --prompt-len: use 1 or more"
        );
        ensure!(self.context > 0, "--context: use 1 or more");
        Ok(())
    }

    pub(super) fn extents(&self) -> Vec<Extents> {
        let decode = self.batch.iter().map(|&seqs| Extents::Decode { seqs, context: self.context });
        decode.chain(self.prompt_len.iter().map(|&tokens| Extents::Prompt(tokens))).collect()
    }
}

/// The weight format of that name.
fn format(name: &str) -> Result<WeightFormat> {
    let dense = [DType::Bf16, DType::F16, DType::F32].into_iter().find(|dtype| dtype.to_string() == name);
    let coded = || PUBLIC.iter().find(|(public, _)| *public == name).map(|(_, format)| *format);
    let known = || PUBLIC.map(|(name, _)| name).join(", ");
    dense
        .map(WeightFormat::dense)
        .or_else(coded)
        .with_context(|| format!("--weights {name}: is unknown; there are bf16, f16, f32, {}", known()))
}

/// One op of one model.
pub(super) struct Shape {
    pub(super) model: String,
    pub(super) num_parameters: usize,
    pub(super) op: ModelOp,
}

/// The op that a case of the suite is about; its own name if it is about several.
pub(super) fn op_of(case: &str) -> &str {
    let stem = case.strip_suffix("_formats").unwrap_or(case);
    if Op::STEMS.contains(&stem) { stem } else { case }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_about_one_op_are_found_by_it() {
        assert_eq!(["linear", "linear_formats", "masks"].map(op_of), ["linear", "linear", "masks"]);
    }
}
