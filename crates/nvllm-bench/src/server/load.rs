//! Many requests: so many at once, or each at its time.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::client::{Answer, Client, Job, NoAnswer};
use crate::host;

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
    /// CPU time of the client.
    pub(super) cpu_seconds: f64,
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
}

/// Times a load.
async fn timed(load: impl Future<Output = Run>) -> Run {
    let (began, cpu) = (Instant::now(), host::cpu_seconds());
    let run = load.await;
    let cpu_seconds = host::cpu_seconds().zip(cpu).map_or(0.0, |(after, before)| after - before);
    Run { seconds: began.elapsed().as_secs_f64(), cpu_seconds, ..run }
}

/// Sends all jobs, `concurrency` at once: a client that has its answer sends the next.
pub(super) async fn closed(client: &Client, jobs: Vec<Job>, concurrency: usize) -> Run {
    let run = RefCell::new(Run::default());
    let jobs = RefCell::new(jobs.into_iter());
    let one = async || {
        loop {
            let job = jobs.borrow_mut().next();
            let Some(job) = job else { break };
            let outcome = client.send(&job).await;
            run.borrow_mut().push(outcome);
        }
    };
    let all = async {
        let mut clients: FuturesUnordered<_> = (0..concurrency).map(|_| one()).collect();
        while clients.next().await.is_some() {}
        drop(clients);
        std::mem::take(&mut *run.borrow_mut())
    };
    timed(all).await
}

/// Sends each job at its time, whatever has become of the others.
pub(super) async fn open(client: &Client, jobs: Vec<(Duration, Job)>) -> Run {
    let began = tokio::time::Instant::now();
    let one = |(at, job): (Duration, Job)| async move {
        tokio::time::sleep_until(began + at).await;
        client.send(&job).await
    };
    let all = async {
        let mut run = Run::default();
        let mut sent: FuturesUnordered<_> = jobs.into_iter().map(one).collect();
        while let Some(outcome) = sent.next().await {
            run.push(outcome);
        }
        run
    };
    timed(all).await
}
