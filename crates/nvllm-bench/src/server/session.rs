//! A server, or the engine alone, under measurement: its checks, and its workloads one after
//! another.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::alone::Alone;
use super::answer::Job;
use super::answerer::Answerer;
use super::check;
use super::client::{Client, Url};
use super::load::{self, Run};
use super::texts::Texts;
use crate::display::Display;
use crate::record::{self, Case, Record, names};
use crate::session::Session;
use crate::{BenchError, Result, files, machine};

/// What the device of a record is called that was made over HTTP.
pub(crate) const OVER_HTTP: &str = "http";

/// Something to be measured of a server, or of the engine alone.
pub trait ServerWorkload: Sync {
    /// Its name on the command line and in records.
    fn name(&self) -> &'static str;
    /// Its place in the suite (`S2`).
    fn code(&self) -> &'static str;
    /// What is sent and what is timed, in a sentence.
    fn definition(&self) -> &'static str;
    /// Measures, and hands the records to `bench`.
    fn run(&self, bench: &mut ServerSession) -> Result<()>;
}

/// What a server is measured with.
pub struct ServerSettings {
    /// The server's address.
    pub url: Url,
    /// A key, if it asks for one.
    pub api_key: Option<String>,
    /// The model's name; the first that the server lists if not given.
    pub model: Option<String>,
    /// The command line, paths cut.
    pub flags: Vec<String>,
    /// The source that the client was built from.
    pub source: record::Source,
}

/// What is asked of whoever answers.
pub struct RequestSettings {
    /// Fewer sizes and requests: a look.
    pub quick: bool,
    /// Requests at once; each workload's own if empty.
    pub concurrency: Vec<usize>,
    /// Prompt and output tokens of `serve`; its own if not given.
    pub lengths: Option<(usize, usize)>,
    /// Seconds that a case may take: less is sent rather than more time taken.
    pub case_seconds: f64,
}

/// A server, or the engine alone, under measurement.
pub struct ServerSession {
    answerer: Answerer,
    pub(super) texts: Texts,
    pub(super) asked: RequestSettings,
    runtime: tokio::runtime::Runtime,
    display: Display,
    template: Record,
    records: Vec<Record>,
    /// Resident bytes of the server before the first measurement, if it tells.
    rest_bytes: Option<f64>,
    /// Prompts made so far.
    streams: usize,
    /// Requests a second at most, once it was found out.
    pub(super) max_rate: Option<f64>,
}

impl ServerSession {
    /// Asks the server what it serves, and checks that it answers as it should: the same greedy
    /// answer twice, streamed and whole, of the length that was asked for.
    ///
    /// Errors if it cannot be reached or does not.
    pub fn start(settings: &ServerSettings, asked: RequestSettings, display: Display) -> Result<Self> {
        let runtime = runtime()?;
        let mut client = Client::new(&settings.url, settings.api_key.as_deref())?;
        let about = runtime.block_on(client.about(settings.model.as_deref()))?;
        let time = machine::now();
        let unknown = || "not told".to_owned();
        let template = Record {
            schema: record::SCHEMA,
            workload: String::new(),
            case: Case::default(),
            run: format!("{time}-{}", std::process::id()),
            time,
            engine: about.engine,
            source: settings.source.clone(),
            host: machine::host(machine::total_bytes().unwrap_or(0)),
            device: record::Device {
                backend: OVER_HTTP.into(),
                name: about.device.unwrap_or_else(unknown),
                memory_bytes: 0,
                driver: None,
                clocks_mhz: None,
                power_limit_watts: None,
            },
            model: record::Model {
                name: client.model.clone(),
                num_parameters: 0,
                sha256: unknown(),
                seed: None,
            },
            dtypes: record::Dtypes { weights: unknown(), activations: unknown(), kv: unknown() },
            numerics: unknown(),
            threads: 1,
            seed: 0,
            flags: settings.flags.iter().map(|flag| files::base_name(flag)).collect(),
            cost: None,
            series: BTreeMap::new(),
            values: BTreeMap::new(),
            correctness: None,
        };
        Self::of(Answerer::Server(client), template, asked, runtime, display)
    }

    /// The engine without a server, for what `session` has checked: its model, loaded as `nvllm
    /// serve` loads it. The requests are those that a server would get.
    ///
    /// Errors if the model cannot be loaded, or answers otherwise than a server must.
    pub fn alone(session: &Session, asked: RequestSettings, display: Display) -> Result<Self> {
        let mut template = session.context().template.clone();
        template.engine.detail += ", without HTTP";
        let alone = Alone::start(session.context())?;
        Self::of(Answerer::Alone(Box::new(alone)), template, asked, runtime()?, display)
    }

    fn of(
        answerer: Answerer,
        mut template: Record,
        asked: RequestSettings,
        runtime: tokio::runtime::Runtime,
        display: Display,
    ) -> Result<Self> {
        let texts = runtime.block_on(Texts::new(&answerer))?;
        let mut checked = runtime.block_on(check::answers(&answerer, &texts))?;
        (display.note)(&format!("{}: {}", template.engine.name, checked.detail));
        if let Some(before) = &template.correctness {
            checked.detail = format!("{}; {}", before.detail, checked.detail);
        }
        template.correctness = Some(checked);
        let rest_bytes = runtime.block_on(answerer.resident_bytes());
        Ok(Self {
            answerer,
            texts,
            asked,
            runtime,
            display,
            template,
            records: Vec::new(),
            rest_bytes,
            streams: 1,
            max_rate: None,
        })
    }

    /// Runs the workloads, and appends the records of each to the file at `path` once it is done.
    pub fn run(&mut self, workloads: &[&dyn ServerWorkload], path: &Path) -> Result<()> {
        for workload in workloads {
            self.display.bar.set_message(workload.name());
            let first = self.records.len();
            let ran = workload.run(self);
            record::append(path, &self.records[first..]).and(ran)?;
            self.display.bar.inc(1);
        }
        self.display.bar.finish_and_clear();
        Ok(())
    }

    /// The name that all records share.
    pub fn run_id(&self) -> &str {
        &self.template.run
    }

    /// The first of `num` numbers of prompts that were not used before.
    pub(super) fn next_stream(&mut self, num: usize) -> usize {
        let first = self.streams;
        self.streams += num;
        first
    }

    /// Tokens that a prompt and its answer may have together.
    pub(super) fn context(&self) -> usize {
        self.answerer.context().unwrap_or(usize::MAX)
    }

    /// Says that something is not measured, and why.
    pub(super) fn skip(&self, what: &str, reason: &str) {
        (self.display.note)(&format!("{what} is skipped: {reason}"));
    }

    /// Sends all jobs, `concurrency` at once.
    pub(super) fn closed(&self, jobs: Vec<Job>, concurrency: usize) -> Run {
        self.runtime.block_on(load::closed(&self.answerer, jobs, concurrency))
    }

    /// Sends each job at its time.
    pub(super) fn open(&self, jobs: Vec<(Duration, Job)>) -> Run {
        self.runtime.block_on(load::open(&self.answerer, jobs))
    }

    /// Errors unless it is idle.
    pub(super) fn check_idle(&self) -> Result<()> {
        self.runtime.block_on(check::is_idle(&self.answerer))
    }

    /// Records what a run gave, with further values.
    pub(super) fn record(
        &mut self,
        workload: &dyn ServerWorkload,
        case: Case,
        run: &Run,
        values: &[(&'static str, f64)],
    ) -> Result<()> {
        let series = run.series();
        let is_server = matches!(self.answerer, Answerer::Server(_));
        let told = [
            (names::FAILED, Some(run.failed.len() as f64).filter(|failed| *failed > 0.0)),
            (names::CLIENT_CPU_SECONDS, Some(run.cpu_seconds).filter(|_| is_server)),
            (names::SERVER_REST_BYTES, self.rest_bytes),
            (names::SERVER_PEAK_BYTES, run.peak_bytes),
        ];
        let told = told.into_iter().filter_map(|(name, value)| Some((name, value?)));
        if let Some(first) = run.failed.first() {
            (self.display.note)(&format!("{} requests failed, the first: {first}", run.failed.len()));
        }
        let record = Record {
            workload: workload.name().into(),
            case,
            time: machine::now(),
            series: series.into_iter().map(|(name, series)| (name.into(), series)).collect(),
            values: told
                .chain(values.iter().copied())
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            ..self.template.clone()
        };
        record.check()?;
        self.records.push(record);
        Ok(())
    }
}

/// What runs the client: one thread, this one.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| BenchError::Server { problem: format!("the client cannot be started: {e}") })
}
