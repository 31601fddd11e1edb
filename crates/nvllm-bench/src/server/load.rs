//! Many requests: so many at once, or each at its time.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::answer::{Answer, Job, NoAnswer};
use super::answerer::Answerer;
use crate::record::{Series, names};
use crate::{latency, machine, stats};

/// How often a server is asked for its memory while it works.
const LOOK: Duration = Duration::from_secs(1);

/// What came of some requests.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// In the order in which they were complete.
    pub(super) answers: Vec<Answer>,
    pub(super) refused: usize,
    pub(super) cancelled: usize,
    /// Why each failed.
    pub(super) failed: Vec<String>,
    /// From the first request sent to the last answer complete.
    pub(super) seconds: f64,
    /// CPU time of this process: of the client, and of the engine where it is alone.
    pub(super) cpu_seconds: f64,
    /// Most resident bytes of the server, looked at every second and at the end, if it tells.
    pub(super) peak_bytes: Option<f64>,
    /// The same at the end.
    pub(super) end_bytes: Option<f64>,
}

/// The resolution of gaps: two chunks of one read have one time.
const SHORTEST: f64 = 1e-6;

impl Run {
    /// Answers as series.
    pub(super) fn series(&self) -> Vec<(&'static str, Series)> {
        let of = |get: fn(&Answer) -> f64| self.answers.iter().map(get);
        let itl = self.answers.iter().flat_map(Answer::itl);
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
    pub(super) fn goodput(&self, ttft: f64, tpot: f64) -> f64 {
        let good = self.answers.iter().filter(|answer| {
            let each = latency::tpot(answer.ttft, answer.e2el, answer.output_tokens as f64);
            answer.ttft <= ttft && each.is_none_or(|each| each <= tpot)
        });
        good.count() as f64 / self.seconds
    }

    /// The 99th percentile of the times to first token.
    pub(super) fn ttft_p99(&self) -> f64 {
        stats::percentile(self.answers.iter().map(|answer| answer.ttft), 99.0)
    }
}

impl Run {
    fn push(&mut self, outcome: Result<Answer, NoAnswer>) {
        match outcome {
            Ok(answer) => self.answers.push(answer),
            Err(NoAnswer::Refused(_)) => self.refused += 1,
            Err(NoAnswer::Cancelled) => self.cancelled += 1,
            Err(NoAnswer::Failed(reason)) => self.failed.push(reason),
        }
    }

    /// Another run behind this one. Gaps between chunks are let go: they would be millions.
    pub(super) fn add(&mut self, later: Self) {
        self.answers.extend(later.answers);
        self.answers.iter_mut().for_each(|answer| answer.chunks = Vec::new());
        self.refused += later.refused;
        self.cancelled += later.cancelled;
        self.failed.extend(later.failed);
        self.seconds += later.seconds;
        self.cpu_seconds += later.cpu_seconds;
        self.peak_bytes = self.peak_bytes.into_iter().chain(later.peak_bytes).reduce(f64::max);
        self.end_bytes = later.end_bytes;
    }
}

/// Times a load, and looks meanwhile at the server's memory.
async fn timed(answerer: &Answerer, load: impl Future<Output = Run>) -> Run {
    let peak: Cell<Option<f64>> = Cell::default();
    let look = async || {
        let bytes = answerer.resident_bytes().await;
        peak.set(peak.get().into_iter().chain(bytes).reduce(f64::max));
        bytes
    };
    let looking = async {
        loop {
            tokio::time::sleep(LOOK).await;
            look().await;
        }
    };
    let (began, cpu) = (Instant::now(), machine::cpu_seconds());
    let run = match select(pin!(load), pin!(looking)).await {
        Either::Left((run, _)) => run,
        Either::Right((never, _)) => never,
    };
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = machine::cpu_seconds().zip(cpu).map_or(0.0, |(after, before)| after - before);
    let end_bytes = look().await;
    Run { seconds, cpu_seconds, peak_bytes: peak.get(), end_bytes, ..run }
}

/// Sends all jobs, `concurrency` at once: who has an answer sends the next.
pub(super) async fn closed(answerer: &Answerer, jobs: Vec<Job>, concurrency: usize) -> Run {
    let run = RefCell::new(Run::default());
    let jobs = RefCell::new(jobs.into_iter());
    let one = async || {
        loop {
            let job = jobs.borrow_mut().next();
            let Some(job) = job else { break };
            let outcome = answerer.send(&job).await;
            run.borrow_mut().push(outcome);
        }
    };
    let all = async {
        let mut clients: FuturesUnordered<_> = (0..concurrency).map(|_| one()).collect();
        while clients.next().await.is_some() {}
        drop(clients);
        std::mem::take(&mut *run.borrow_mut())
    };
    timed(answerer, all).await
}

/// Sends each job at its time, whatever has become of the others.
pub(super) async fn open(answerer: &Answerer, jobs: Vec<(Duration, Job)>) -> Run {
    let began = tokio::time::Instant::now();
    let one = |(at, job): (Duration, Job)| async move {
        tokio::time::sleep_until(began + at).await;
        answerer.send(&job).await
    };
    let all = async {
        let mut run = Run::default();
        let mut sent: FuturesUnordered<_> = jobs.into_iter().map(one).collect();
        while let Some(outcome) = sent.next().await {
            run.push(outcome);
        }
        run
    };
    timed(answerer, all).await
}
