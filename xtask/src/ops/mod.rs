//! `cargo xtask ops`: one op at a time, right and timed.
//!
//! Two kinds of case: those of the conformance suite, whose shapes are drawn, and the ops of real
//! models in their shapes. Every case is held to the reference within the suite's bounds; with
//! `--perf` the ops of real models are timed too, beside the limits of the hardware. `--support`
//! prints what each backend runs by a kernel of its own, and a block `report:ops` of a
//! text holds it (`cargo xtask report`).
//!
//! It runs from a checkout, also as part of a bundle on a machine without Rust.

mod cases;
mod perf;
mod support;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use nvllm_conformance::{CASES, Extents, ModelOp, Setting};
use nvllm_core::backend::WithNumerics;
use nvllm_core::weight::PUBLIC;
use nvllm_core::{Activations, Backend, DType, KvFormat, Numerics, Op, Reference, WeightFormat};
use nvllm_cpu::{CpuBackend, PoolConfig};
use nvllm_cuda::{CudaBackend, CudaOptions};

use crate::model;
pub(crate) use support::block;

/// What to run.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Args {
    /// Only this op (linear); may be given several times
    #[arg(long, value_name = "OP")]
    op: Vec<String>,
    /// Only cases whose name holds this text (4096x1024, decode, prompt)
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Name::Cpu)]
    backend: Name,
    /// Which GPU of the CUDA backend
    #[arg(long, default_value_t = 0)]
    gpu: usize,
    /// Threads of the CPU backend; all that affinity and cgroup quota allow if not given
    #[arg(long)]
    threads: Option<usize>,
    /// Models whose ops are cases: names from models/configs, or paths of config.json
    #[arg(long, value_delimiter = ',', default_values = ["qwen3-0.6b", "qwen3-8b"])]
    config: Vec<String>,
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
    trials: u32,
    /// Also time the models' ops
    #[arg(long)]
    perf: bool,
    /// List the cases and run none
    #[arg(long)]
    list: bool,
    /// Print what each backend runs by a kernel, in parts, or not at all, and why; runs no case
    #[arg(long)]
    support: bool,
    /// Print a line of JSON for each case
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Reference,
    Cpu,
    Cuda,
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
    fn open(&self) -> Result<Box<dyn Backend>> {
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
        })
    }

    fn setting(&self) -> Result<Setting> {
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

    const fn order(&self) -> Numerics {
        match self.numerics {
            Order::Invariant => Numerics::Invariant,
            Order::Fast => Numerics::Fast,
        }
    }

    /// Whether a case of this name and op is asked for.
    fn wants(&self, op: &str, name: &str) -> bool {
        (self.op.is_empty() || self.op.iter().any(|wanted| wanted == op))
            && self.case.as_ref().is_none_or(|text| name.contains(text.as_str()))
    }

    /// Whether a case of the suite is asked for. Those about equal bits in any company are not about
    /// what `fast` promises.
    fn wants_drawn(&self, name: &str) -> bool {
        let op = cases::op_of(name);
        self.wants(op, name) && (self.order() == Numerics::Invariant || Op::STEMS.contains(&op))
    }

    fn check(&self) -> Result<()> {
        for op in &self.op {
            let known = Op::STEMS.contains(&op.as_str()) || CASES.iter().any(|case| case.name == op);
            ensure!(known, "--op {op}: is unknown; there are {}", Op::STEMS.join(", "));
        }
        ensure!(
            self.batch.iter().chain(&self.prompt_len).all(|&n| n > 0),
            "--batch, --prompt-len: use 1 or more"
        );
        ensure!(self.context > 0, "--context: use 1 or more");
        Ok(())
    }

    fn extents(&self) -> Vec<Extents> {
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
struct Shape {
    model: String,
    op: ModelOp,
}

/// The ops of the models, each shape once.
fn shapes(root: &Path, args: &Args) -> Result<Vec<Shape>> {
    let mut shapes: Vec<Shape> = Vec::new();
    for config in &args.config {
        let file = model::config_file(root, config)?;
        let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let spec = model::record(&text).with_context(|| file.display().to_string())?;
        let name = nvllm_bench::files::base_name(config);
        let name = name.strip_suffix(".json").unwrap_or(&name);
        for op in ModelOp::all(&spec)? {
            if shapes.iter().all(|other| other.op.name != op.name) {
                shapes.push(Shape { model: name.to_owned(), op });
            }
        }
    }
    Ok(shapes)
}

/// Runs the cases. Fails if one is wrong.
pub(crate) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    args.check()?;
    if args.support {
        print!("{}", support::block()?);
        return Ok(ExitCode::SUCCESS);
    }
    let shapes = shapes(root, args)?;
    if args.list {
        cases::list(args, &shapes);
        return Ok(ExitCode::SUCCESS);
    }
    let (backend, setting) = (args.open()?, args.setting()?);
    if !args.json {
        println!("{}\n", backend.info().device);
    }
    let with_numerics = WithNumerics { backend: backend.as_ref(), numerics: args.order() };
    let mut count = cases::Count::default();
    for case in CASES.iter().filter(|case| args.wants_drawn(case.name)) {
        let outcome = cases::drawn(case, &with_numerics, args.trials);
        count.add(&outcome);
        cases::show(args, case.name, None, &outcome);
    }
    for (shape, extents) in
        shapes.iter().flat_map(|shape| args.extents().into_iter().map(move |e| (shape, e)))
    {
        let name = format!("{}, {extents}", shape.op.name);
        if !args.wants(shape.op.op().stem(), &name) {
            continue;
        }
        let outcome = cases::of_model(&shape.op, backend.as_ref(), extents, setting);
        count.add(&outcome);
        let timed = if args.perf && outcome.is_native() {
            perf::measure(&shape.op, backend.as_ref(), extents, setting)?
        } else {
            None
        };
        cases::show(args, &name, Some((&shape.model, timed)), &outcome);
    }
    eprintln!("{count}");
    Ok(if count.failed == 0 && count.any() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
