//! S3: requests that arrive by themselves, at shares of the most that the server can do.
//!
//! Arrivals are Poisson. Lengths are log-normal (medians of 160 in and 200 out, sigma 0.9), as
//! chats have them. The goodput counts requests within MLPerf's limits for Llama 3.1 8B: two
//! seconds to the first token and a tenth of a second a token.

use std::time::Duration;

use super::answer::Job;
use super::session::{ServerSession, ServerWorkload};
use crate::measure::prompt::draws;
use crate::record::{Case, names};
use crate::{BenchError, Result};

/// Requests in time.
pub(super) struct Arrivals;

/// Shares of the most requests a second, in percent.
const SHARES: [usize; 4] = [25, 50, 75, 90];
const QUICK_SHARES: [usize; 1] = [75];
/// Requests at once while the most is found out.
const AT_ONCE: usize = 64;
const MEDIANS: (f64, f64) = (160.0, 200.0);
const SIGMA: f64 = 0.9;
/// Seconds to the first token, and a token after it.
const BOUNDS: (f64, f64) = (2.0, 0.1);

/// Jobs with drawn lengths, which fit a context.
pub(super) fn jobs(bench: &mut ServerSession, num: usize) -> Vec<Job> {
    let stream = bench.next_stream(num);
    let mut random = draws(stream as u64);
    let context = bench.context();
    let mut length = |median: f64, most: usize| {
        // Box and Muller.
        let (a, b) = (random.next().unwrap_or(0.5), random.next().unwrap_or(0.5));
        let normal = (-2.0 * a.max(f64::MIN_POSITIVE).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        ((median * (SIGMA * normal).exp()).round() as usize).clamp(1, most)
    };
    (0..num)
        .map(|at| {
            let prompt_len = length(MEDIANS.0, context / 2);
            let output_len = length(MEDIANS.1, context / 2);
            Job { prompt: bench.texts.prompt(stream + at, prompt_len), output_len, cancel_after: None }
        })
        .collect()
}

/// When `num` requests arrive at `rate` a second.
pub(super) fn times(num: usize, rate: f64, seed: u64) -> Vec<Duration> {
    let mut at = 0.0;
    draws(seed)
        .take(num)
        .map(|random| {
            at -= (1.0 - random).max(f64::MIN_POSITIVE).ln() / rate;
            Duration::from_secs_f64(at)
        })
        .collect()
}

/// The most requests of these lengths that the server ends a second.
pub(super) fn max_rate(bench: &mut ServerSession) -> Result<f64> {
    if let Some(rate) = bench.max_rate {
        return Ok(rate);
    }
    let num = if bench.asked.quick { AT_ONCE } else { 4 * AT_ONCE };
    let jobs = jobs(bench, num);
    let run = bench.closed(jobs, AT_ONCE);
    if run.answers.is_empty() {
        let first = run.failed.first().map_or("all were refused", String::as_str);
        return Err(BenchError::Server { problem: format!("none of {num} requests was answered: {first}") });
    }
    let rate = run.answers.len() as f64 / run.seconds;
    bench.max_rate = Some(rate);
    Ok(rate)
}

impl ServerWorkload for Arrivals {
    fn name(&self) -> &'static str {
        "arrivals"
    }

    fn code(&self) -> &'static str {
        "S3"
    }

    fn definition(&self) -> &'static str {
        "over HTTP (--url) or by the engine alone: Poisson arrivals at 25 to 90 % of the most requests a second, \
         lengths log-normal with medians of 160 and 200 tokens: latencies, and requests a second within 2,000 ms to \
         the first token and 100 ms a token"
    }

    fn run(&self, bench: &mut ServerSession) -> Result<()> {
        let most = max_rate(bench)?;
        let shares: &[usize] = if bench.asked.quick { &QUICK_SHARES } else { &SHARES };
        for &share in shares {
            let rate = most * share as f64 / 100.0;
            // Half of the time that a case may take: the last arrivals want theirs too.
            let num = ((rate * bench.asked.case_seconds / 2.0) as usize).max(8);
            let jobs = jobs(bench, num);
            let run = bench.open(times(num, rate, share as u64).into_iter().zip(jobs).collect());
            let case = Case {
                num_requests: Some(num),
                state: Some(format!("{share} % of the most")),
                ..Case::default()
            };
            let mut values = vec![
                (names::REQUEST_RATE, rate),
                (names::MAX_REQUEST_RATE, most),
                (names::GOODPUT, run.goodput(BOUNDS.0, BOUNDS.1)),
            ];
            if run.refused > 0 {
                values.push((names::REFUSED, run.refused as f64));
            }
            bench.record(self, case, &run, &values)?;
        }
        Ok(())
    }
}
