//! One run: what the crate `nvllm-bench` is given, and what is printed of what it gives back.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nvllm_bench::workload::{self, Workload};
use nvllm_bench::{
    Bench, Display, Factory, Gate, Program, Settings, Sizes, Subject, host, installations, record, table,
};
use nvllm_core::Backend;
use nvllm_cpu::{CpuBackend, Kernels, Pool, PoolConfig};
use nvllm_cuda::{CudaBackend, CudaOptions};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{EngineError, Model};

use super::{Args, BackendArg, gate};
use crate::synth;

/// Seconds that one case may take.
const CASE_SECONDS: f64 = 180.0;
const QUICK_CASE_SECONDS: f64 = 40.0;

/// Measures, writes the records and prints their tables.
pub(super) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    let all = workload::REGISTRY.iter().filter(|workload| {
        args.workloads.is_empty() || args.workloads.iter().any(|name| name == workload.name())
    });
    args.workloads.iter().try_for_each(|name| workload::find(name).map(|_| ()))?;
    let workloads: Vec<&dyn Workload> = all.copied().collect();
    let dir = model_dir(root, args)?;
    let runs_program = workloads.iter().any(|workload| ["startup", "busy"].contains(&workload.name()));
    let program = if runs_program { build(root, args) } else { None };
    let settings = settings(root, args, program)?;
    let display = Display::bar(workloads.len(), |line| eprintln!("{line}"));
    let gate = Gate { fixtures: Some(Box::new(gate::check)), demo: opener(root.join("models/nvllm-tiny")) };
    let mut bench = Bench::start(subject(args, &dir)?, factory(args), &gate, settings, display)?;
    let path = args
        .records
        .clone()
        .unwrap_or_else(|| root.join(format!("bench/records/{}.jsonl", args.backend.name())));
    bench.run(&workloads, &path)?;
    if let Some(path) = &args.profile {
        bench.profile(path)?;
    }
    let written = record::read_run(&path, bench.run_id())?;
    println!("{}\n{}\n{}", table::conditions(&written), table::figures(&written), table::latencies(&written));
    println!("records: {} (run {})", path.display(), bench.run_id());
    Ok(ExitCode::SUCCESS)
}

/// The given directory, or the one of random weights, made now if it is not there.
fn model_dir(root: &Path, args: &Args) -> Result<PathBuf> {
    if let Some(dir) = &args.model {
        return Ok(dir.clone());
    }
    let file = host::base_name(&args.config);
    let name = file.strip_suffix(".json").unwrap_or(&file);
    let dir = root.join(format!("out/bench/{name}-seed0"));
    if !dir.join("model.safetensors").is_file() {
        eprintln!("drawing the weights of {name}");
        synth::make(root, &args.config, 0, &dir)?;
    }
    Ok(dir)
}

fn opener(dir: PathBuf) -> Box<dyn Fn() -> nvllm_bench::Result<Model>> {
    Box::new(move || Ok(Model::open(&ModelFiles::in_directory(&dir)?)?))
}

fn subject(args: &Args, dir: &Path) -> Result<Subject> {
    let files = host::weight_files(dir)?;
    ensure!(!files.is_empty(), "{} holds no safetensors file", dir.display());
    Ok(Subject {
        name: host::base_name(&dir.to_string_lossy()),
        sha256: host::sha256_files(&files)?,
        dir: Some(dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?),
        seed: args.model.is_none().then_some(0),
        open: opener(dir.into()),
    })
}

fn factory(args: &Args) -> Factory {
    match args.backend {
        BackendArg::Cpu => cpu(PoolConfig { threads: args.threads, pin: args.pin, ..PoolConfig::default() }),
        BackendArg::Cuda => cuda(args.gpu),
    }
}

fn cpu(config: PoolConfig) -> Factory {
    Arc::new(move || {
        let failed = |e: nvllm_cpu::CpuError| EngineError::Backend { reason: e.to_string() };
        let pool = Pool::of_process(&config).map_err(failed)?;
        pool.pin_caller().map_err(failed)?;
        Ok(Box::new(CpuBackend::with(pool, Kernels::best())) as Box<dyn Backend>)
    })
}

fn cuda(gpu: usize) -> Factory {
    let cache_dir = Some(std::env::temp_dir().join("nvllm-cuda-kernels"));
    let options = CudaOptions { gpu, cache_dir, ..CudaOptions::default() };
    Arc::new(move || {
        let backend =
            CudaBackend::new(&options).map_err(|e| EngineError::Backend { reason: e.to_string() })?;
        Ok(Box::new(backend) as Box<dyn Backend>)
    })
}

/// The source that was built: as said, or as the repository says.
fn source(root: &Path, args: &Args) -> Result<record::Source> {
    match &args.commit {
        None => host::commit(root)
            .context("the commit cannot be found: use --commit where there is no repository"),
        Some(said) => {
            let clean = said.strip_suffix("-dirty");
            Ok(record::Source { commit: clean.unwrap_or(said).into(), dirty: Some(clean.is_some()) })
        }
    }
}

fn settings(root: &Path, args: &Args, program: Option<Program>) -> Result<Settings> {
    let pythons = if args.no_peers { &[][..] } else { &args.peer_python };
    let mut peers = installations(&root.join("crates/nvllm-bench/peers"), pythons, args.quick);
    if args.no_peers {
        peers.clear();
    }
    Ok(Settings {
        quick: args.quick,
        activations: args.activations.core(),
        kv_format: args.activations.core().kv_format(),
        numerics: args.numerics.core(),
        step_tokens: args.max_num_batched_tokens,
        threads: match args.backend {
            BackendArg::Cpu => args.threads.unwrap_or_else(nvllm_cpu::default_threads),
            BackendArg::Cuda => 1,
        },
        scale: args.scale,
        case_seconds: args.case_seconds.unwrap_or(if args.quick { QUICK_CASE_SECONDS } else { CASE_SECONDS }),
        flags: std::env::args().skip(1).collect(),
        source: source(root, args)?,
        version: env!("CARGO_PKG_VERSION").into(),
        program,
        sizes: Sizes::default(),
        peers,
        peer_device: match args.backend {
            BackendArg::Cpu => "cpu".into(),
            BackendArg::Cuda => format!("cuda:{}", args.gpu),
        },
        scratch: root.join("out/bench"),
    })
}

/// The real program, built from this source; `None` if that fails, which cargo then has said.
fn build(root: &Path, args: &Args) -> Option<Program> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--release", "--package", "nvllm"]).current_dir(root);
    if !cargo.status().is_ok_and(|status| status.success()) {
        eprintln!("the program nvllm was not built");
        return None;
    }
    let mut flags = vec!["--activations".into(), args.activations.name().into()];
    flags.extend(["--backend".into(), args.backend.name().into()]);
    flags.extend(["--numerics".into(), args.numerics.core().name().into()]);
    flags.extend(
        args.threads.map(|threads| vec!["--threads".into(), threads.to_string()]).unwrap_or_default(),
    );
    if args.pin {
        flags.push("--pin".into());
    }
    Some(Program { path: root.join("target/release/nvllm"), args: flags })
}
