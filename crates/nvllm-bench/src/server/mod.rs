//! Workloads of requests: what the clients of a server see, ours or any other that speaks
//! `OpenAI`'s completions, and beside it what the engine does with the same requests in this
//! process ([`ServerBench::alone`]), so that what HTTP costs is the difference.
//!
//! The client is one thread, so that on a small machine it takes as little from the server as it
//! can; the CPU time that it took is in the record. Tokens are counted by the server's own `usage`.

mod alone;
mod answer;
mod answerer;
mod arrivals;
mod check;
mod client;
mod load;
mod overload;
mod serve;
mod soak;
mod texts;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use alone::Alone;
use answer::Job;
use answerer::Answerer;
use client::Client;
pub use client::Url;
use load::Run;
use texts::Texts;

use crate::bench::{Bench, Display};
use crate::record::{self, Case, Record, Series, names};
use crate::workload::Figures;
use crate::{BenchError, Result, host, stats, table};

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
    fn run(&self, bench: &mut ServerBench) -> Result<()>;
}

/// Every workload of requests.
pub static REGISTRY: [&dyn ServerWorkload; 4] =
    [&serve::Serve, &arrivals::Arrivals, &overload::Overload, &soak::Soak];

/// The workload of this name.
pub fn find(name: &str) -> Result<&'static dyn ServerWorkload> {
    REGISTRY.into_iter().find(|workload| workload.name() == name).ok_or_else(|| {
        let known = REGISTRY.map(ServerWorkload::name).join(", ");
        let problem = format!("`{name}` is not measured over HTTP; with --url there are {known}");
        BenchError::Option { option: "workload", problem }
    })
}

/// What a table shows of a record of one of these workloads.
pub(crate) fn figures(record: &Record) -> Option<Figures> {
    REGISTRY.iter().find(|workload| workload.name() == record.workload)?;
    let outputs: f64 = record.series(names::OUTPUT_TOKENS).iter().sum();
    let seconds: f64 = record.series(names::RUN_SECONDS).iter().sum();
    let value = |name: &str| record.values.get(name).copied().unwrap_or(0.0);
    let mut headline = format!("{} for {outputs:.0} output tokens", table::duration(seconds));
    for (name, what) in [
        (names::REFUSED, "refused"),
        (names::CANCELLED, "cancelled"),
        (names::FAILED, "failed"),
        (names::GOODPUT, "requests/s within 2000/100 ms"),
    ] {
        if record.values.contains_key(name) {
            headline += &format!(", {:.3} {what}", value(name));
        }
    }
    let client_cpu = record.values.get(names::CLIENT_CPU_SECONDS);
    let limit =
        client_cpu.map_or_else(|| "without HTTP".into(), |seconds| format!("{seconds:.2} client CPU s"));
    Some(Figures { headline, rate: Some(outputs / seconds), limit })
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
pub struct ServerBench {
    answerer: Answerer,
    texts: Texts,
    asked: RequestSettings,
    runtime: tokio::runtime::Runtime,
    display: Display,
    template: Record,
    records: Vec<Record>,
    /// Resident bytes of the server before the first measurement, if it tells.
    rest_bytes: Option<f64>,
    /// Prompts made so far.
    streams: usize,
    /// Requests a second at most, once it was found out.
    max_rate: Option<f64>,
}

impl ServerBench {
    /// Asks the server what it serves, and checks that it answers as it should: the same greedy
    /// answer twice, streamed and whole, of the length that was asked for.
    ///
    /// Errors if it cannot be reached or does not.
    pub fn start(settings: &ServerSettings, asked: RequestSettings, display: Display) -> Result<Self> {
        let runtime = runtime()?;
        let mut client = Client::new(&settings.url, settings.api_key.as_deref())?;
        let about = runtime.block_on(client.about(settings.model.as_deref()))?;
        let time = host::now();
        let unknown = || "not told".to_owned();
        let template = Record {
            schema: record::SCHEMA,
            workload: String::new(),
            case: Case::default(),
            run: format!("{time}-{}", std::process::id()),
            time,
            engine: about.engine,
            source: settings.source.clone(),
            host: host::host(host::total_bytes().unwrap_or(0)),
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
            flags: settings.flags.iter().map(|flag| host::base_name(flag)).collect(),
            cost: None,
            series: BTreeMap::new(),
            values: BTreeMap::new(),
            correctness: None,
        };
        Self::of(Answerer::Server(client), template, asked, runtime, display)
    }

    /// The engine without a server, for what `bench` has checked: its model, loaded as `nvllm
    /// serve` loads it. The requests are those that a server would get.
    ///
    /// Errors if the model cannot be loaded, or answers otherwise than a server must.
    pub fn alone(bench: &Bench, asked: RequestSettings, display: Display) -> Result<Self> {
        let mut template = bench.template().clone();
        template.engine.detail += ", without HTTP";
        let alone = Alone::start(bench)?;
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
    fn next_stream(&mut self, num: usize) -> usize {
        let first = self.streams;
        self.streams += num;
        first
    }

    /// Tokens that a prompt and its answer may have together.
    fn context(&self) -> usize {
        self.answerer.context().unwrap_or(usize::MAX)
    }

    /// Says that something is not measured, and why.
    fn skip(&self, what: &str, reason: &str) {
        (self.display.note)(&format!("{what} is skipped: {reason}"));
    }

    /// Sends all jobs, `concurrency` at once.
    fn closed(&self, jobs: Vec<Job>, concurrency: usize) -> Run {
        self.runtime.block_on(load::closed(&self.answerer, jobs, concurrency))
    }

    /// Sends each job at its time.
    fn open(&self, jobs: Vec<(Duration, Job)>) -> Run {
        self.runtime.block_on(load::open(&self.answerer, jobs))
    }

    /// Errors unless it is idle.
    fn check_idle(&self) -> Result<()> {
        self.runtime.block_on(check::is_idle(&self.answerer))
    }

    /// Keeps what a run gave, with further values.
    fn keep(
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
            time: host::now(),
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

/// The resolution of gaps: two chunks of one read have one time.
const SHORTEST: f64 = 1e-6;

/// Answers of a run as series.
impl Run {
    fn series(&self) -> Vec<(&'static str, Series)> {
        let of = |get: fn(&answer::Answer) -> f64| self.answers.iter().map(get);
        let itl = self.answers.iter().flat_map(answer::Answer::itl);
        let mut series = vec![
            (names::TTFT_SECONDS, Series::seconds(of(|answer| answer.ttft))),
            (names::E2EL_SECONDS, Series::seconds(of(|answer| answer.e2el))),
            (names::PROMPT_TOKENS, Series::whole(of(|answer| answer.prompt_tokens as f64))),
            (names::OUTPUT_TOKENS, Series::whole(of(|answer| answer.output_tokens as f64))),
            (names::RUN_SECONDS, Series::seconds([self.seconds])),
        ];
        let itl = Series::seconds_sorted(itl.map(|gap| gap.max(SHORTEST)));
        if !itl.is_empty() {
            series.push((names::ITL_SECONDS, itl));
        }
        series
    }

    /// Requests a second whose latencies are within these bounds, in seconds.
    fn goodput(&self, ttft: f64, tpot: f64) -> f64 {
        let good = self.answers.iter().filter(|answer| {
            let each = crate::latency::tpot(answer.ttft, answer.e2el, answer.output_tokens as f64);
            answer.ttft <= ttft && each.is_none_or(|each| each <= tpot)
        });
        good.count() as f64 / self.seconds
    }

    /// The 99th percentile of the times to first token.
    fn ttft_p99(&self) -> f64 {
        stats::percentile(self.answers.iter().map(|answer| answer.ttft), 99.0)
    }
}

/// What runs the client: one thread, this one.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| BenchError::Server { problem: format!("the client cannot be started: {e}") })
}
