//! S6: twice as many requests as the server can do, a tenth of whose clients go away.

use std::time::Duration;

use super::arrivals::{jobs, max_rate, times};
use super::{ServerBench, ServerWorkload};
use crate::prompt::draws;
use crate::record::{Case, names};
use crate::{BenchError, Result};

/// Too many.
pub(super) struct Overload;

const SECONDS: f64 = 30.0;
const QUICK_SECONDS: f64 = 10.0;
/// Share of the clients that go away.
const CANCELLED: f64 = 0.1;
/// How long a client that goes away waits at most.
const PATIENCE: f64 = 2.0;
/// How long the server may take to be idle again, once all clients are gone.
const SETTLING: Duration = Duration::from_secs(10);

impl ServerWorkload for Overload {
    fn name(&self) -> &'static str {
        "overload"
    }

    fn code(&self) -> &'static str {
        "S6"
    }

    fn definition(&self) -> &'static str {
        "over HTTP: twice the most requests a second for 30 s, a tenth of the clients go away: what is refused, p99 of \
         TTFT of the others; afterwards nothing may run or hold KV blocks"
    }

    fn run(&self, bench: &mut ServerBench) -> Result<()> {
        let rate = 2.0 * max_rate(bench)?;
        let seconds = if bench.settings.quick { QUICK_SECONDS } else { SECONDS };
        let num = ((rate * seconds) as usize).max(16);
        let mut jobs = jobs(bench, num);
        let mut random = draws(u64::MAX);
        for job in &mut jobs {
            let (chosen, patience) = (random.next().unwrap_or(1.0), random.next().unwrap_or(1.0));
            job.cancel_after = (chosen < CANCELLED).then(|| Duration::from_secs_f64(PATIENCE * patience));
        }
        let run = bench.open(times(num, rate, 1).into_iter().zip(jobs).collect());
        check_idle(bench)?;
        let case =
            Case { num_requests: Some(num), state: Some("200 % of the most".into()), ..Case::default() };
        let values = [
            (names::REQUEST_RATE, rate),
            (names::REFUSED, run.refused as f64),
            (names::CANCELLED, run.cancelled as f64),
            (names::TTFT_P99_SECONDS, run.ttft_p99()),
        ];
        bench.keep(self, case, &run, &values)
    }
}

/// Errors unless the server's metrics say that nothing runs and no block is in use. A server
/// without metrics cannot be asked.
fn check_idle(bench: &ServerBench) -> Result<()> {
    let began = std::time::Instant::now();
    loop {
        let counts = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]
            .map(|name| bench.metric(name));
        if counts.iter().all(|count| count.is_none_or(|count| count == 0.0)) {
            return Ok(());
        }
        if began.elapsed() > SETTLING {
            let problem = format!(
                "{SETTLING:?} after the last client had gone the server has requests or KV blocks in use: {counts:?}"
            );
            return Err(BenchError::Server { problem });
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
