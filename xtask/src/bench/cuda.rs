//! The CUDA backend's measurements: whole steps beside reads of device memory, and each op of a step.
//!
//! A decode run keeps two steps in flight, as serving does: a step's time is that from one result to the next. Weights are drawn in
//! memory from a seed, so that the program needs no checkpoint where it measures.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nvllm_core::program::Counts;
use nvllm_core::weight::SyntheticSource;
use nvllm_core::{
    Activations, Backend, CanonicalTensor, CoreError, DType, Limits, ModelSpec, Numerics, WeightFormat,
    WeightSource,
};
use nvllm_cuda::{CudaBackend, CudaExecutable, CudaOptions};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::record::{self, Bandwidth, Correctness, Dtypes, Engine, Kind, Model, Record};
use super::sequences::Sequences;
use super::{gate, machine, report};
use crate::model;

/// Prompt of the decode runs: a short context.
const DECODE_PROMPT: usize = 32;
/// Bytes that the backend reads to measure its bandwidth.
const READ_BYTES: usize = 1 << 30;

/// Arguments of `bench cuda`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Shape of the model, whose weights are drawn in memory
    #[arg(long, default_value = "qwen3-0.6b")]
    config: String,
    /// Which GPU
    #[arg(long, default_value_t = 0)]
    gpu: usize,
    /// Sequences of the decode runs
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    batches: Vec<usize>,
    /// Prompts of the prefill run and tokens of each, COUNTxTOKENS
    #[arg(long, default_value = "1x512", value_parser = parse_prefill)]
    prefill: (usize, usize),
    /// Decoded tokens beside each read
    #[arg(long, default_value_t = 16)]
    tokens: usize,
    /// Reads
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// Allow summation orders that change with the shape
    #[arg(long)]
    fast: bool,
    /// File that the records are appended to; those of single ops go beside it
    #[arg(long, default_value = "bench/records/cuda.jsonl")]
    records: PathBuf,
    /// The source's commit where there is no repository to ask, with `-dirty` if its files differed
    #[arg(long)]
    commit: Option<String>,
}

fn parse_prefill(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once('x').and_then(|(n, len)| Some((n.parse().ok()?, len.parse().ok()?)));
    parsed.filter(|&(n, len)| n > 0 && len > 0).ok_or_else(|| "use COUNTxTOKENS, as in 16x1024".into())
}

/// One op of one step, all nodes that are alike together. A line of the ops' file.
#[derive(Serialize)]
struct OpRecord {
    schema: u32,
    run: String,
    commit: String,
    device: String,
    model: String,
    numerics: String,
    tokens: usize,
    outputs: usize,
    context: usize,
    op: String,
    num_nodes: usize,
    bytes: f64,
    flops: f64,
    seconds: Vec<f64>,
    read_rate: f64,
}

/// Measures, writes the records and prints their tables.
pub(super) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    let cache_dir = Some(std::env::temp_dir().join("nvllm-cuda-kernels"));
    let options = CudaOptions { gpu: args.gpu, cache_dir, ..CudaOptions::default() };
    let backend = CudaBackend::new(&options)?;
    eprintln!("checking correctness");
    let correctness = gate::check(&backend);
    ensure!(correctness.passed, "no measurement without correctness: {}", correctness.detail);
    let text = std::fs::read(model::config_file(root, &args.config)?)?;
    let spec = model::record(&text)?;
    eprintln!("drawing the weights of {}", args.config);
    let weights = Drawn::new(&spec);
    let template = template(root, args, &backend, &spec, &weights, correctness);
    let mut bench = Bench { args, backend, spec, weights, template, ops: Vec::new() };
    let mut records = vec![bench.prefill()?];
    for &batch in &args.batches {
        records.push(bench.decode(batch)?);
    }
    record::append(&args.records, &records)?;
    let ops_file = args.records.with_extension("ops.jsonl");
    let mut lines = String::new();
    for op in &bench.ops {
        lines += &serde_json::to_string(op)?;
        lines.push('\n');
    }
    std::fs::write(&ops_file, lines).with_context(|| format!("cannot write {}", ops_file.display()))?;
    println!("\n{}", op_table(&bench.ops));
    println!("{}\n{}", report::conditions(&records), report::table(&records));
    println!("records: {}, {} (run {})", args.records.display(), ops_file.display(), bench.template.run);
    Ok(ExitCode::SUCCESS)
}

/// Random weights in memory, drawn once by all processors.
struct Drawn {
    tensors: HashMap<String, CanonicalTensor>,
}

impl Drawn {
    fn new(spec: &ModelSpec) -> Self {
        let names = SyntheticSource::new(&spec.weights, DType::Bf16, 0).names();
        let num_threads = std::thread::available_parallelism().map_or(1, usize::from);
        let draw = |first: usize| {
            let source = SyntheticSource::new(&spec.weights, DType::Bf16, 0);
            let mine = names.iter().skip(first).step_by(num_threads);
            mine.filter_map(|name| Some((name.clone(), source.tensor(name).ok()?))).collect::<Vec<_>>()
        };
        let tensors = std::thread::scope(|scope| {
            let draw = &draw;
            let workers: Vec<_> = (0..num_threads).map(|i| scope.spawn(move || draw(i))).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("drawing does not fail")).collect()
        });
        Self { tensors }
    }

    fn sha256(&self) -> String {
        let mut names: Vec<_> = self.tensors.keys().collect();
        names.sort();
        let mut hash = Sha256::new();
        names.iter().for_each(|name| hash.update(&self.tensors[*name].codes));
        hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl WeightSource for Drawn {
    fn describe(&self) -> String {
        "weights drawn in memory".into()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> nvllm_core::Result<CanonicalTensor> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.describe() };
        self.tensors.get(name).cloned().ok_or_else(missing)
    }
}

fn template(
    root: &Path,
    args: &Args,
    backend: &CudaBackend,
    spec: &ModelSpec,
    weights: &Drawn,
    correctness: Correctness,
) -> Record {
    let (commit, dirty) = match &args.commit {
        None => machine::commit(root),
        Some(text) => {
            let commit = text.strip_suffix("-dirty");
            (commit.unwrap_or(text).to_owned(), commit.is_some())
        }
    };
    let time = machine::now();
    let base_name =
        |arg: String| Path::new(&arg).file_name().map_or(String::new(), |n| n.to_string_lossy().into());
    let bf16 = || DType::Bf16.to_string();
    Record {
        schema: record::SCHEMA,
        kind: Kind::Decode,
        run: format!("{time}-{}", std::process::id()),
        time,
        engine: Engine {
            name: "nvllm".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            detail: backend.info().device,
        },
        commit,
        dirty,
        machine: machine::machine(backend.facts().memory_bytes),
        flags: std::env::args().skip(1).map(base_name).collect(),
        model: Model {
            name: format!("{}-seed0", args.config),
            num_parameters: spec.num_parameters(),
            sha256: weights.sha256(),
            seed: Some(0),
        },
        dtypes: Dtypes { weights: bf16(), activations: bf16(), kv: bf16() },
        numerics: if args.fast { "fast" } else { "invariant" }.into(),
        threads: 1,
        prompt_tokens: 0,
        output_tokens: 0,
        batch: 1,
        seconds: Vec::new(),
        warm_prefill_seconds: None,
        bandwidth: None,
        flops: None,
        correctness: Some(correctness),
    }
}

struct Bench<'a> {
    args: &'a Args,
    backend: CudaBackend,
    spec: ModelSpec,
    weights: Drawn,
    template: Record,
    ops: Vec<OpRecord>,
}

impl Bench<'_> {
    fn load(&self, num_seqs: usize, step_tokens: usize, context: usize) -> Result<Sequences<CudaExecutable>> {
        let numerics = if self.args.fast { Numerics::Fast } else { Numerics::Invariant };
        let limits = Limits {
            step_tokens,
            step_outputs: num_seqs,
            seqs: num_seqs,
            context,
            block_len: 16,
            kv_bytes: usize::MAX,
            kv_dtype: DType::Bf16,
            activations: Activations::Bf16,
            numerics,
            max_in_flight: 2,
        };
        let limits = Sequences::<CudaExecutable>::sized(limits, &self.spec);
        let exe = self.backend.load_model(&self.spec, &self.weights, &limits)?;
        Ok(Sequences::new(exe, limits, self.spec.vocab_size))
    }

    fn record(&self, kind: Kind, batch: usize, prompt_tokens: usize, seconds: Vec<f64>) -> Record {
        let output_tokens = if kind == Kind::Prefill { 1 } else { seconds.len() };
        let time = machine::now();
        Record { kind, time, prompt_tokens, output_tokens, batch, seconds, ..self.template.clone() }
    }

    fn prefill(&mut self) -> Result<Record> {
        let (num, len) = self.args.prefill;
        let mut sequences = self.load(num, num * len, len + 1)?;
        let mut seconds = Vec::new();
        for at in 0..6 {
            let start = Instant::now();
            sequences.prompts(len)?;
            if at > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        let pairs = num * len * (len + 1) / 2;
        let counts =
            Counts { tokens: num * len, outputs: num, seqs: num, kv_positions: num * len, kv_pairs: pairs };
        self.time_ops(&mut sequences, &counts, len)?;
        let mut record = self.record(Kind::Prefill, num, len, seconds);
        record.flops = Some(self.cost(&sequences, &counts).1);
        Ok(record)
    }

    fn decode(&mut self, batch: usize) -> Result<Record> {
        let (rounds, num) = (self.args.rounds, self.args.tokens);
        let context = DECODE_PROMPT + (rounds + 1) * num + 2;
        let mut sequences = self.load(batch, batch * DECODE_PROMPT, context)?;
        sequences.prompts(DECODE_PROMPT)?;
        // Graphs are captured, clocks rise.
        sequences.decode(num)?;
        let (mut seconds, mut read_seconds) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let rate = self.backend.measure_read_bandwidth().context("the bandwidth cannot be measured")?;
            read_seconds.push(READ_BYTES as f64 / rate);
            seconds.extend(sequences.decode(num)?);
        }
        let mut bytes = 0.0;
        for step in 0..seconds.len() {
            let counts = Counts::decode(batch, DECODE_PROMPT + num + step);
            bytes += self.cost(&sequences, &counts).0 / seconds.len() as f64;
        }
        let middle = DECODE_PROMPT + num + seconds.len() / 2;
        self.time_ops(&mut sequences, &Counts::decode(batch, middle), middle)?;
        let mut record = self.record(Kind::Decode, batch, DECODE_PROMPT + num, seconds);
        record.bandwidth = Some(Bandwidth {
            bytes_per_unit: bytes,
            units_per_read: num,
            read_bytes: READ_BYTES,
            read_seconds,
        });
        Ok(record)
    }

    fn formats(&self) -> Vec<WeightFormat> {
        self.spec.weights.iter().map(|_| WeightFormat::dense(DType::Bf16)).collect()
    }

    /// Weight and KV bytes, and FLOPs, of a step.
    fn cost(&self, sequences: &Sequences<CudaExecutable>, counts: &Counts) -> (f64, f64) {
        let cost = self.spec.programs[0].cost(counts, &sequences.limits, &self.formats());
        (cost.weight_bytes + cost.kv_bytes, cost.flops)
    }

    /// Each op of the last step.
    fn time_ops(
        &mut self,
        sequences: &mut Sequences<CudaExecutable>,
        counts: &Counts,
        context: usize,
    ) -> Result<()> {
        let rate = self.backend.measure_read_bandwidth().unwrap_or(f64::NAN);
        let times = sequences.exe.time_ops(20)?;
        let program = sequences.exe.program(0).context("the model has a program")?;
        let costs = program.costs(counts, &sequences.limits, &self.formats());
        for time in times {
            let sum =
                |of: fn(&nvllm_core::program::OpCost) -> f64| time.nodes.iter().map(|&n| of(&costs[n])).sum();
            self.ops.push(OpRecord {
                schema: 1,
                run: self.template.run.clone(),
                commit: self.template.commit.clone(),
                device: self.template.engine.detail.clone(),
                model: self.template.model.name.clone(),
                numerics: self.template.numerics.clone(),
                tokens: counts.tokens,
                outputs: counts.outputs,
                context,
                op: time.op,
                num_nodes: time.nodes.len(),
                bytes: sum(nvllm_core::program::OpCost::bytes),
                flops: sum(|cost| cost.flops),
                seconds: time.seconds,
                read_rate: rate,
            });
        }
        Ok(())
    }
}

/// Markdown: time, bytes and rates of each op, from the records alone.
fn op_table(ops: &[OpRecord]) -> String {
    let mut text = String::from(
        "| tokens | context | op | nodes | median us | MB | of the read rate | TFLOP/s |\n|---|---|---|---|---|---|---|---|\n",
    );
    for op in ops {
        let seconds = report::median(op.seconds.iter().copied());
        let share = 100.0 * op.bytes / seconds / op.read_rate;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.1} | {:.2} | {share:.1} % | {:.2} |",
            op.tokens,
            op.context,
            op.op,
            op.num_nodes,
            1e6 * seconds,
            op.bytes / 1e6,
            op.flops / seconds / 1e12,
        );
    }
    text
}
