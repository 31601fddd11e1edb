//! The CPU backend's measurements, interleaved with reads of memory and with the peer.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nvllm_core::program::Counts;
use nvllm_core::{Backend, DType, TokenId};
use nvllm_cpu::{CpuBackend, Kernels, Pool, PoolConfig, read_once};
use sha2::{Digest, Sha256};

use super::driver::{self, Checkpoint, Driver, STEP_TOKENS};
use super::peer::{Peer, agreement};
use super::record::{self, Bandwidth, Correctness, Dtypes, Engine, Kind, Model, Record};
use super::{CpuArgs, ModelArgs, first_token, gate, machine, report};
use crate::synth;

/// Prompt of the decode runs: a short context.
const DECODE_PROMPT: usize = 32;
/// Bytes that a read of memory takes at least: many times the last-level cache.
const READ_BYTES: usize = 512 << 20;

/// How often things are measured.
struct Plan {
    /// Reads of memory, each beside some decoded tokens.
    decode_rounds: usize,
    /// Tokens beside each read.
    decode_tokens: usize,
    /// Prompts of [`STEP_TOKENS`].
    prefills: usize,
    /// Processes that load the model.
    starts: usize,
}

const FULL: Plan = Plan { decode_rounds: 16, decode_tokens: 8, prefills: 7, starts: 7 };
const QUICK: Plan = Plan { decode_rounds: 5, decode_tokens: 4, prefills: 2, starts: 2 };

/// Measures, writes the records and prints their table.
pub(super) fn command(root: &Path, args: &CpuArgs) -> Result<ExitCode> {
    let dir = model_dir(root, &args.model)?;
    let sha256 = hash(&dir.join("model.safetensors"))?;
    let config = PoolConfig { threads: args.model.threads, pin: args.model.pin, ..PoolConfig::default() };
    let pool = Pool::of_process(&config)?;
    pool.pin_caller()?;
    let backend = CpuBackend::with(Arc::clone(&pool), Kernels::best());
    let facts = machine::machine(backend.info().memory_bytes);
    if let Some(load) = facts.load_before.filter(|load| *load > 0.5) {
        eprintln!(
            "note: the load average is {load}; others use this machine, and rates are what they left over"
        );
    }
    eprintln!("checking correctness");
    let correctness = gate::check(&backend);
    ensure!(correctness.passed, "no measurement without correctness: {}", correctness.detail);
    let checkpoint = Checkpoint::open(&dir)?;
    ensure!(
        checkpoint.spec.max_positions >= STEP_TOKENS && checkpoint.spec.vocab_size > 0,
        "{} has {} positions; {STEP_TOKENS} are measured",
        dir.display(),
        checkpoint.spec.max_positions
    );
    let driver = Driver::load(&backend, &checkpoint, args.model.activations.core())?;
    let peer = start_peer(root, args, &dir, &sha256, pool.num_threads())?;
    let subject = Subject {
        name: base_name(&dir.to_string_lossy()),
        sha256,
        checkpoint: &checkpoint,
        kv: driver.limits().kv_dtype,
        device: backend.info().device,
        machine: facts,
    };
    let template = template(root, args, subject, correctness)?;
    let plan = if args.quick { QUICK } else { FULL };
    let mut bench = Bench { plan, pool, checkpoint, driver, peer, template, peer_check: None };
    let mut records = bench.prefill()?;
    records.extend(bench.decode()?);
    let Bench { plan, template, driver, .. } = bench;
    drop(driver);
    records.push(first_tokens(&plan, &template, &dir, &args.model)?);
    let path = args.records.clone().unwrap_or_else(|| root.join("bench/records/cpu.jsonl"));
    record::append(&path, &records)?;
    let written = record::read(&path, &template.run)?;
    println!("\n{}\n{}", report::conditions(&written), report::table(&written));
    println!("records: {} (run {})", path.display(), template.run);
    Ok(ExitCode::SUCCESS)
}

/// The given directory, or the one of random weights, made now if it is not there.
fn model_dir(root: &Path, args: &ModelArgs) -> Result<PathBuf> {
    if let Some(dir) = &args.model {
        return Ok(dir.clone());
    }
    let file = base_name(&args.config);
    let name = file.strip_suffix(".json").unwrap_or(&file);
    let dir = root.join(format!("out/bench/{name}-seed0"));
    if !dir.join("model.safetensors").is_file() {
        eprintln!("drawing the weights of {name}");
        synth::make(root, &args.config, 0, &dir)?;
    }
    Ok(dir)
}

fn hash(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher)?;
    let mut text = String::new();
    for byte in hasher.finalize() {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

fn start_peer(
    root: &Path,
    args: &CpuArgs,
    dir: &Path,
    sha256: &str,
    num_threads: usize,
) -> Result<Option<Peer>> {
    let gguf = root.join(format!("out/bench/{}.gguf", &sha256[..12]));
    std::fs::create_dir_all(root.join("out/bench"))?;
    let script = root.join("xtask/peers/llamacpp.py");
    match Peer::start(&args.peer_python, &script, dir, &gguf, num_threads)? {
        Ok(peer) => {
            eprintln!("peer: {} {}", peer.engine.name, peer.engine.version);
            Ok(Some(peer))
        }
        Err(reason) => {
            eprintln!("peer: llama.cpp is skipped: {reason}");
            Ok(None)
        }
    }
}

/// What is measured, and where.
struct Subject<'a> {
    name: String,
    sha256: String,
    checkpoint: &'a Checkpoint,
    kv: DType,
    device: String,
    machine: record::Machine,
}

/// The last component of a path: where things lie on this machine is nobody's business.
fn base_name(text: &str) -> String {
    Path::new(text).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// A record of ours with everything but the measurement.
fn template(root: &Path, args: &CpuArgs, subject: Subject<'_>, correctness: Correctness) -> Result<Record> {
    let (commit, dirty) = machine::commit(root);
    let time = machine::now();
    Ok(Record {
        schema: record::SCHEMA,
        kind: Kind::Decode,
        run: format!("{time}-{}", std::process::id()),
        time,
        engine: Engine {
            name: "nvllm".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            detail: subject.device,
        },
        commit,
        dirty,
        machine: subject.machine,
        flags: std::env::args().skip(1).map(|arg| base_name(&arg)).collect(),
        model: Model {
            name: subject.name,
            num_parameters: subject.checkpoint.spec.num_parameters(),
            sha256: subject.sha256,
            seed: args.model.model.is_none().then_some(0),
        },
        dtypes: Dtypes {
            weights: subject.checkpoint.dtype()?.to_string(),
            activations: args.model.activations.name().into(),
            kv: subject.kv.to_string(),
        },
        numerics: "invariant".into(),
        threads: 0,
        prompt_tokens: 0,
        output_tokens: 0,
        batch: 1,
        seconds: Vec::new(),
        warm_prefill_seconds: None,
        bandwidth: None,
        flops: None,
        correctness: Some(correctness),
    })
}

/// Everything that the interleaved measurements need.
struct Bench {
    plan: Plan,
    pool: Arc<Pool>,
    checkpoint: Checkpoint,
    driver: Driver,
    peer: Option<Peer>,
    template: Record,
    /// Whether the peer runs the same model, once known.
    peer_check: Option<Correctness>,
}

impl Bench {
    fn prompt(&self, len: usize) -> Vec<TokenId> {
        driver::prompt(len, self.checkpoint.spec.vocab_size)
    }

    fn ours(&self, kind: Kind, prompt_tokens: usize, output_tokens: usize, seconds: Vec<f64>) -> Record {
        let (time, threads) = (machine::now(), self.pool.num_threads());
        Record { kind, time, threads, prompt_tokens, output_tokens, seconds, ..self.template.clone() }
    }

    /// Our record as the peer's.
    fn theirs(&self, ours: &Record, seconds: Vec<f64>) -> Option<Record> {
        let peer = self.peer.as_ref()?;
        let dtypes = Dtypes { activations: "its own".into(), kv: peer.kv.clone(), ..ours.dtypes.clone() };
        Some(Record {
            engine: peer.engine.clone(),
            dtypes,
            numerics: "its own".into(),
            seconds,
            correctness: self.peer_check.clone(),
            ..ours.clone()
        })
    }

    /// Prompts of [`STEP_TOKENS`], the engines in turn; checks first that they run the same model.
    fn prefill(&mut self) -> Result<Vec<Record>> {
        let prompt = self.prompt(STEP_TOKENS);
        let logits = self.driver.logits(&prompt)?;
        if let Some(peer) = &mut self.peer {
            self.peer_check = Some(agreement(&peer.prefill(&prompt)?.top, &logits));
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..self.plan.prefills {
            eprintln!("prefill {} of {}", round + 1, self.plan.prefills);
            for turn in [round % 2, 1 - round % 2] {
                match (turn, &mut self.peer) {
                    (0, _) => ours.push(self.driver.prefill(&prompt)?.0),
                    (_, Some(peer)) => theirs.push(peer.prefill(&prompt)?.seconds),
                    _ => {}
                }
                settle();
            }
        }
        let mut ours = self.ours(Kind::Prefill, prompt.len(), 1, ours);
        let counts = Counts::prefill(prompt.len());
        ours.flops = Some(driver::cost(&self.checkpoint, self.driver.limits(), &counts)?.1);
        let theirs = self.theirs(&ours, theirs);
        Ok(std::iter::once(ours).chain(theirs).collect())
    }

    /// Reads of memory with some decoded tokens beside each; the peer decodes as many in its turn.
    fn decode(&mut self) -> Result<Vec<Record>> {
        let prompt = self.prompt(DECODE_PROMPT);
        let (rounds, num) = (self.plan.decode_rounds, self.plan.decode_tokens);
        let buffer = vec![0x3f_u8; READ_BYTES];
        let (mut reads, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        self.driver.prefill(&prompt)?;
        if let Some(peer) = &mut self.peer {
            peer.prefill(&prompt)?;
        }
        read_once(&self.pool, Kernels::best(), &buffer);
        for round in 0..rounds {
            eprintln!("decode {} of {rounds}", round + 1);
            let turns = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
            for turn in turns {
                match (turn, &mut self.peer) {
                    (0, _) => reads.push(read_once(&self.pool, Kernels::best(), &buffer)),
                    (1, _) => {
                        for _ in 0..num {
                            ours.push(self.driver.decode()?.0);
                        }
                    }
                    (_, Some(peer)) => {
                        settle();
                        theirs.extend(peer.decode(num)?.seconds);
                        settle();
                    }
                    _ => {}
                }
            }
        }
        let steps = rounds * num;
        let mut bytes = 0.0;
        for step in 0..steps {
            let counts = Counts::decode(1, prompt.len() + step);
            bytes += driver::cost(&self.checkpoint, self.driver.limits(), &counts)?.0 / steps as f64;
        }
        let mut ours = self.ours(Kind::Decode, prompt.len(), steps, ours);
        ours.bandwidth = Some(Bandwidth {
            bytes_per_unit: bytes,
            units_per_read: num,
            read_bytes: buffer.len(),
            read_seconds: reads,
        });
        // The same reads stand beside the peer's turns; its KV cache has our element size or nearly so.
        let theirs = self.theirs(&ours, theirs);
        Ok(std::iter::once(ours).chain(theirs).collect())
    }
}

/// Lets another engine's threads stop spinning.
fn settle() {
    std::thread::sleep(Duration::from_millis(30));
}

/// Processes that load the model and make one token.
fn first_tokens(plan: &Plan, template: &Record, dir: &Path, args: &ModelArgs) -> Result<Record> {
    let (mut seconds, mut warm) = (Vec::new(), Vec::new());
    let num_threads = args.threads.unwrap_or_else(nvllm_cpu::default_threads);
    for start in 0..plan.starts {
        eprintln!("start {} of {}", start + 1, plan.starts);
        let (first, again) = first_token::once(dir, args, num_threads)?;
        seconds.push(first);
        warm.push(again);
    }
    Ok(Record {
        kind: Kind::FirstToken,
        time: machine::now(),
        threads: num_threads,
        prompt_tokens: first_token::PROMPT,
        output_tokens: 1,
        seconds,
        warm_prefill_seconds: Some(warm),
        ..template.clone()
    })
}
