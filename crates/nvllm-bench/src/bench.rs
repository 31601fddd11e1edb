//! One invocation: what is measured, on what, and what came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nvllm_core::{Activations, Backend, BackendInfo, DType, KvFormat, Limits, Numerics};
use nvllm_engine::Model;

use crate::gate::{Gate, GateReport};
use crate::peer::{Installation, Peer, PeerSetup};
use crate::prompt::Prompts;
use crate::record::{self, Case, Cost, Dtypes, Engine, OURS, Record, SCHEMA, Series, names};
use crate::workload::Workload;
use crate::{BenchError, Result, host, stepper};

/// What makes the backend that is measured, as often as it is asked.
pub type Factory = Arc<dyn Fn() -> nvllm_engine::Result<Box<dyn Backend>> + Send + Sync>;

/// The model that is measured.
pub struct Subject {
    /// What records call it.
    pub name: String,
    /// Of its weights, hexadecimal.
    pub sha256: String,
    /// Where it lies, if it lies on disk.
    pub dir: Option<PathBuf>,
    /// Seed of random weights.
    pub seed: Option<u64>,
    /// Opens it. Not held open throughout: pages that a process maps cannot be driven out of the
    /// page cache.
    pub open: Box<dyn Fn() -> Result<Model>>,
}

/// How it is measured.
pub struct Settings {
    /// Fewer sizes and rounds: a look, not a measurement to quote.
    pub quick: bool,
    /// Storage of values between ops.
    pub activations: Activations,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
    /// Summation-order promise.
    pub numerics: Numerics,
    /// New tokens in one step; as many as suit the backend if not given.
    pub step_tokens: Option<usize>,
    /// Threads that compute.
    pub threads: usize,
    /// Share of the nano-vllm set's requests and lengths; as much as fits the time if not given.
    pub scale: Option<f64>,
    /// Seconds that one case may take: larger ones are skipped.
    pub case_seconds: f64,
    /// The command line without the program.
    pub flags: Vec<String>,
    /// What was built.
    pub source: record::Source,
    /// Our version.
    pub version: String,
    /// The program whose start is measured, with the arguments that choose backend and threads.
    pub program: Option<Program>,
    /// Sizes asked for; a workload's own where empty.
    pub sizes: Sizes,
    /// Peers to look for.
    pub peers: Vec<Installation>,
    /// Where they compute, as torch names it: `cpu`, `cuda:0`.
    pub peer_device: String,
    /// Where peers may keep converted weights.
    pub scratch: PathBuf,
}

/// Sizes of `decode` and `prefill`: every combination of those given is measured.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// Sequences at once.
    pub batch: Vec<usize>,
    /// Tokens of each sequence that the cache holds before a decode step.
    pub context: Vec<usize>,
    /// Tokens of each prompt.
    pub prompt_len: Vec<usize>,
}

impl Sizes {
    /// Every batch size with every length of `lens`; a size that was not given counts as `default`,
    /// and `None` where neither was.
    pub(crate) fn pairs(&self, lens: &[usize], default: (usize, usize)) -> Option<Vec<(usize, usize)>> {
        if self.batch.is_empty() && lens.is_empty() {
            return None;
        }
        let or = |given: &[usize], default| if given.is_empty() { vec![default] } else { given.to_vec() };
        let (batches, lens) = (or(&self.batch, default.0), or(lens, default.1));
        Some(lens.iter().flat_map(|&len| batches.iter().map(move |&batch| (batch, len))).collect())
    }
}

/// The real `nvllm`.
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Arguments of `generate` that choose backend, threads and dtypes.
    pub args: Vec<String>,
}

/// How the program that runs this shows what happens.
pub struct Display {
    /// Progress.
    pub bar: ProgressBar,
    /// A line for the user: what was skipped and why, who the peers are.
    pub note: Box<dyn Fn(&str)>,
}

impl Display {
    /// A bar over `num_workloads`, and `note` above it.
    ///
    /// Where standard error is no terminal the bar is not drawn; notes are.
    pub fn bar(num_workloads: usize, note: fn(&str)) -> Self {
        let bar = ProgressBar::new(num_workloads as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        let above = bar.clone();
        Self { bar, note: Box::new(move |line| above.suspend(|| note(line))) }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self { bar: ProgressBar::hidden(), note: Box::new(|_| {}) }
    }
}

/// The limits of the hardware, measured now by the measured backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roof {
    /// Bytes a second.
    pub read: f64,
    /// Operations a second.
    pub matmul: f64,
}

impl Roof {
    /// Seconds that `cost` takes at least.
    pub(crate) fn seconds(self, cost: Cost) -> f64 {
        (cost.bytes / self.read).max(cost.flops / self.matmul)
    }
}

/// What was measured of one case by one engine.
#[derive(Default)]
pub(crate) struct Measurement {
    pub cost: Option<Cost>,
    pub series: Vec<(&'static str, Series)>,
    pub values: Vec<(&'static str, f64)>,
}

/// One invocation. Its records share a run and a passed correctness check.
pub struct Bench {
    pub(crate) subject: Subject,
    pub(crate) settings: Settings,
    pub(crate) gate: GateReport,
    /// New tokens in one step.
    pub(crate) step_tokens: usize,
    factory: Factory,
    display: Display,
    template: Record,
    weights: DType,
    prompts: Option<Arc<Prompts>>,
    peers: Option<Vec<Peer>>,
    skipped: Vec<String>,
    records: Vec<Record>,
}

impl Bench {
    /// Checks the backend's correctness, then gathers the facts that all records share.
    ///
    /// Errors if the backend cannot be made, computes wrongly, or the model cannot be opened.
    pub fn start(
        subject: Subject,
        factory: Factory,
        gate: &Gate,
        settings: Settings,
        display: Display,
    ) -> Result<Self> {
        let info = factory()?.info();
        let host = host::host(info.memory_bytes);
        if let Some(load) = host.load_before.filter(|load| *load > 0.5) {
            (display.note)(&format!(
                "the load average is {load}: others use this machine, and rates are what they left over"
            ));
        }
        display.bar.set_message("checking correctness");
        (display.note)("checking first that the backend computes what it should: some seconds on a CPU");
        let gate = gate.check(&factory, (settings.activations, settings.numerics), settings.quick)?;
        if !gate.correctness.passed {
            return Err(BenchError::Incorrect { detail: gate.correctness.detail });
        }
        let model = (subject.open)()?;
        let (weights, weights_name) = stepper::weight_dtype(&model)?;
        let time = host::now();
        let step_tokens = settings.step_tokens.unwrap_or(info.step_tokens);
        let (activations, kv) = (settings.activations.dtype().to_string(), settings.kv_format.to_string());
        let template = Record {
            schema: SCHEMA,
            workload: String::new(),
            case: Case::default(),
            run: format!("{time}-{}", std::process::id()),
            time,
            engine: Engine {
                name: OURS.into(),
                version: settings.version.clone(),
                command: None,
                detail: format!("{}, at most {} tokens a step", info.device, step_tokens),
            },
            source: settings.source.clone(),
            host,
            device: device(info),
            model: record::Model {
                name: subject.name.clone(),
                num_parameters: model.spec.num_parameters(),
                sha256: subject.sha256.clone(),
                seed: subject.seed,
            },
            dtypes: Dtypes { weights: weights_name, activations, kv },
            numerics: settings.numerics.name().into(),
            threads: settings.threads,
            seed: 0,
            flags: settings.flags.iter().map(|flag| host::base_name(flag)).collect(),
            cost: None,
            series: BTreeMap::new(),
            values: BTreeMap::new(),
            correctness: Some(gate.correctness.clone()),
        };
        Ok(Self {
            subject,
            settings,
            gate,
            step_tokens,
            factory,
            display,
            template,
            weights,
            prompts: None,
            peers: None,
            skipped: Vec::new(),
            records: Vec::new(),
        })
    }

    /// Runs the workloads, one after another, and appends the records of each to the file at `path`
    /// once it is done.
    ///
    /// Errors if one fails or a record is refused; what was appended before stays.
    pub fn run(&mut self, workloads: &[&dyn Workload], path: &Path) -> Result<()> {
        let mut result = Ok(());
        for workload in workloads {
            self.display.bar.set_message(workload.name());
            let first = self.records.len();
            let ran = workload.run(self);
            result = record::append(path, &self.records[first..]).and(ran);
            if result.is_err() {
                break;
            }
            self.display.bar.inc(1);
        }
        self.display.bar.finish_and_clear();
        result
    }

    /// Everything measured so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What was not measured, with reasons.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// The name that all records share.
    pub fn run_id(&self) -> &str {
        &self.template.run
    }

    /// What all records share.
    pub(crate) const fn template(&self) -> &Record {
        &self.template
    }

    /// Opens the model.
    pub(crate) fn open(&self) -> Result<Model> {
        (self.subject.open)()
    }

    /// The prompts, made the first time.
    pub(crate) fn prompts(&mut self) -> Result<Arc<Prompts>> {
        if let Some(prompts) = &self.prompts {
            return Ok(Arc::clone(prompts));
        }
        let prompts = Arc::new(Prompts::new(&self.open()?)?);
        self.prompts = Some(Arc::clone(&prompts));
        Ok(prompts)
    }

    /// Makes the backend.
    pub(crate) fn backend(&self) -> Result<Box<dyn Backend>> {
        Ok((self.factory)()?)
    }

    /// What makes the backend, for an engine.
    pub(crate) fn factory(&self) -> Factory {
        Arc::clone(&self.factory)
    }

    /// A contract for `seqs` sequences of `context` tokens, in steps of at most `step_tokens`.
    pub(crate) fn limits(
        &self,
        model: &Model,
        seqs: usize,
        context: usize,
        step_tokens: usize,
    ) -> Result<Limits> {
        let activations = self.settings.activations;
        let mut limits = Limits {
            step_tokens,
            step_outputs: seqs,
            seqs,
            context,
            block_len: 16,
            kv_bytes: 0,
            kv_format: self.settings.kv_format,
            activations,
            numerics: self.settings.numerics,
            max_in_flight: 2,
        };
        limits.kv_bytes = stepper::kv_bytes(model, &limits, seqs, context)?;
        Ok(limits)
    }

    /// Measures the hardware's limits, now.
    pub(crate) fn roof(&self, backend: &dyn Backend) -> Roof {
        let rate = |what: &str, measured: nvllm_core::Result<Option<f64>>| {
            let measured = measured.unwrap_or_else(|error| {
                (self.display.note)(&format!("warning: {what} cannot be measured: {error}"));
                None
            });
            measured.unwrap_or(f64::INFINITY)
        };
        let matmul = backend.measure_matmul_rate(self.weights, self.settings.activations);
        Roof {
            read: rate("the memory's read bandwidth", backend.measure_read_bandwidth()),
            matmul: rate("the rate of matrix products", matmul),
        }
    }

    /// Says that something is not measured, and why.
    pub(crate) fn skip(&mut self, what: &str, reason: &str) {
        let line = format!("{what} is skipped: {reason}");
        (self.display.note)(&line);
        self.skipped.push(line);
    }

    /// Whether a case of this length fits the time that one may take; if not it is skipped.
    pub(crate) fn affords(&mut self, what: &str, seconds: f64) -> bool {
        let allowed = self.settings.case_seconds;
        if seconds <= allowed {
            return true;
        }
        self.skip(
            what,
            &format!("it would take about {seconds:.0} s; {allowed:.0} s are allowed for one case"),
        );
        false
    }

    /// Bytes that are free where the backend computes.
    pub(crate) fn free_bytes(&self) -> usize {
        let device = &self.template.device;
        host::available_bytes().filter(|_| device.driver.is_none()).unwrap_or(device.memory_bytes)
    }

    /// Whether this many bytes beside the weights fit the memory that is free; if not the case is
    /// skipped.
    pub(crate) fn fits(&mut self, what: &str, bytes: usize) -> bool {
        let free = self.free_bytes();
        // A machine that swaps measures its disk.
        let allowed = free / 5 * 4;
        if bytes <= allowed {
            return true;
        }
        let gigabytes = |bytes: usize| bytes as f64 / 1e9;
        self.skip(
            what,
            &format!(
                "it takes {:.1} GB; four fifths of what is free are {:.1} GB",
                gigabytes(bytes),
                gigabytes(allowed)
            ),
        );
        false
    }

    /// Shows where a workload is.
    pub(crate) fn progress(&self, what: &str) {
        self.display.bar.set_message(what.to_owned());
        self.display.bar.tick();
    }

    /// Keeps what our engine measured.
    pub(crate) fn keep(&mut self, workload: &dyn Workload, case: &Case, measured: Measurement) -> Result<()> {
        let record = self.template.clone();
        self.push(record, workload, case, measured)
    }

    /// Keeps what a peer measured.
    pub(crate) fn keep_peer(
        &mut self,
        workload: &dyn Workload,
        case: &Case,
        peer: &Peer,
        measured: Measurement,
    ) -> Result<()> {
        let record = Record {
            engine: peer.engine.clone(),
            dtypes: peer.dtypes.clone(),
            numerics: "its own".into(),
            correctness: Some(peer.agreement.clone()),
            ..self.template.clone()
        };
        self.push(record, workload, case, measured)
    }

    fn push(
        &mut self,
        record: Record,
        workload: &dyn Workload,
        case: &Case,
        measured: Measurement,
    ) -> Result<()> {
        let Measurement { cost, series, values } = measured;
        let record = Record {
            workload: workload.name().into(),
            case: case.clone(),
            time: host::now(),
            cost,
            series: series.into_iter().map(|(name, series)| (name.into(), series)).collect(),
            values: values.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            ..record
        };
        record.check()?;
        self.records.push(record);
        Ok(())
    }

    /// The peers, started and checked against our logits the first time; to be given
    /// [back](Self::put_peers).
    pub(crate) fn take_peers(&mut self) -> Result<Vec<Peer>> {
        if let Some(peers) = self.peers.take() {
            return Ok(peers);
        }
        let installations = std::mem::take(&mut self.settings.peers);
        if installations.is_empty() {
            return Ok(Vec::new());
        }
        let Some(dir) = self.subject.dir.clone() else {
            for installation in &installations {
                self.skip(
                    &format!("peer {}", installation.name),
                    "the model lies in memory; peers need files",
                );
            }
            return Ok(Vec::new());
        };
        let setup = PeerSetup {
            dir,
            sha256: self.subject.sha256.clone(),
            threads: self.settings.threads,
            device: self.settings.peer_device.clone(),
            scratch: self.settings.scratch.clone(),
            weights: self.template.dtypes.weights.clone(),
        };
        let (prompt, logits) = self.known_logits()?;
        let mut peers = Vec::new();
        for installation in &installations {
            self.progress(&format!("starting {}", installation.name));
            let started = Peer::start(installation, &setup).and_then(|mut peer| {
                peer.agree(&prompt, &logits)?;
                Ok(peer)
            });
            match started {
                Ok(peer) => {
                    (self.display.note)(&format!(
                        "peer {} {}: {}",
                        peer.engine.name, peer.engine.version, peer.agreement.detail
                    ));
                    peers.push(peer);
                }
                Err(reason) => self.skip(&format!("peer {}", installation.name), &reason),
            }
        }
        Ok(peers)
    }

    /// Keeps the peers for the next workload.
    pub(crate) fn put_peers(&mut self, peers: Vec<Peer>) {
        self.peers = Some(peers);
    }

    /// A prompt and our logits after it.
    fn known_logits(&mut self) -> Result<(Vec<nvllm_core::TokenId>, Vec<f32>)> {
        const LEN: usize = 32;
        let model = self.open()?;
        let prompt = self.prompts()?.get(0, LEN.min(model.spec.max_positions));
        let limits = self.limits(&model, 1, prompt.len(), prompt.len())?;
        let backend = self.backend()?;
        let logits = stepper::Stepper::load(backend.as_ref(), &model, &limits)?.logits(&prompt)?;
        Ok((prompt, logits))
    }
}

/// Lets another engine come to rest: turns of ours right after a peer's were seen to run slower.
/// Why, and whether this pause is long enough, is not established.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(500));
}

/// The order in which `num` engines take their turns in a round: forwards, then backwards (ABBA).
pub(crate) fn turns(round: usize, num: usize) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..num).collect() } else { (0..num).rev().collect() }
}

fn device(info: BackendInfo) -> record::Device {
    record::Device {
        backend: info.name,
        name: info.device,
        memory_bytes: info.memory_bytes,
        driver: info.driver,
        clocks_mhz: info.clocks_mhz,
        power_limit_watts: None,
    }
}

/// Measurements of the roof beside each group, as series; none of what the backend cannot tell.
pub(crate) fn roof_series(roofs: &[Roof]) -> Vec<(&'static str, Series)> {
    let all = |values: Vec<f64>| values.iter().all(|x| x.is_finite()).then(|| Series::whole(values));
    let read =
        all(roofs.iter().map(|roof| roof.read).collect()).map(|series| (names::READ_BANDWIDTH, series));
    let rate = all(roofs.iter().map(|roof| roof.matmul).collect()).map(|series| (names::MATMUL_RATE, series));
    read.into_iter().chain(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_take_turns_forwards_and_backwards() {
        assert_eq!(turns(0, 3), [0, 1, 2]);
        assert_eq!(turns(1, 3), [2, 1, 0]);
    }

    #[test]
    fn sizes_combine() {
        let sizes = |batch: &[usize]| Sizes { batch: batch.to_vec(), ..Sizes::default() };
        assert_eq!(sizes(&[]).pairs(&[], (1, 128)), None);
        assert_eq!(sizes(&[]).pairs(&[512, 64], (1, 128)), Some(vec![(1, 512), (1, 64)]));
        assert_eq!(sizes(&[1, 8]).pairs(&[], (1, 128)), Some(vec![(1, 128), (8, 128)]));
        assert_eq!(sizes(&[2, 4]).pairs(&[16, 32], (1, 1)), Some(vec![(2, 16), (4, 16), (2, 32), (4, 32)]));
    }

    #[test]
    fn the_roof_is_the_slower_of_the_two() {
        let roof = Roof { read: 10.0, matmul: 100.0 };
        assert!(roof.seconds(Cost { bytes: 20.0, flops: 100.0 }) == 2.0);
        assert!(roof.seconds(Cost { bytes: 20.0, flops: 300.0 }) == 3.0);
        assert_eq!(
            roof_series(&[Roof { read: f64::INFINITY, matmul: 2.0 }]),
            [(names::MATMUL_RATE, Series::whole([2.0]))]
        );
    }
}
