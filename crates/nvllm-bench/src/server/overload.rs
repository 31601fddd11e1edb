//! S6: twice as many requests as the server can do, a tenth of whose clients go away.

use std::time::Duration;

use super::arrivals::{jobs, max_rate, times};
use super::session::{ServerSession, ServerWorkload};
use crate::Result;
use crate::measure::prompt::draws;
use crate::record::{Case, names};

/// Too many.
pub(super) struct Overload;

const SECONDS: f64 = 30.0;
const QUICK_SECONDS: f64 = 10.0;
/// Share of the clients that go away.
const CANCELLED: f64 = 0.1;
/// How long a client that goes away waits at most.
const PATIENCE: f64 = 2.0;

impl ServerWorkload for Overload {
    fn name(&self) -> &'static str {
        "overload"
    }

    fn code(&self) -> &'static str {
        "S6"
    }

    fn definition(&self) -> &'static str {
        "over HTTP (--url) or by the engine alone: twice the most requests a second for 30 s, a tenth of the clients \
         go away: what is refused, p99 of TTFT of the others; afterwards nothing may run or hold KV blocks"
    }

    fn run(&self, bench: &mut ServerSession) -> Result<()> {
        let rate = 2.0 * max_rate(bench)?;
        let seconds = if bench.asked.quick { QUICK_SECONDS } else { SECONDS };
        let num = ((rate * seconds) as usize).max(16);
        let mut jobs = jobs(bench, num);
        let mut random = draws(u64::MAX);
        for job in &mut jobs {
            let (chosen, patience) = (random.next().unwrap_or(1.0), random.next().unwrap_or(1.0));
            job.cancel_after = (chosen < CANCELLED).then(|| Duration::from_secs_f64(PATIENCE * patience));
        }
        let run = bench.open(times(num, rate, 1).into_iter().zip(jobs).collect());
        bench.check_idle()?;
        let case =
            Case { num_requests: Some(num), state: Some("200 % of the most".into()), ..Case::default() };
        let values = [
            (names::REQUEST_RATE, rate),
            (names::REFUSED, run.refused as f64),
            (names::CANCELLED, run.cancelled as f64),
            (names::TTFT_P99_SECONDS, run.ttft_p99()),
        ];
        bench.record(self, case, &run, &values)
    }
}
