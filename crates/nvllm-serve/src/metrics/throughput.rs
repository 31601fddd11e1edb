//! A rate from a count that grows.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who asks again sooner gets the rate of before.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Tokens a second.
pub(super) struct Throughput(Mutex<Sample>);

struct Sample {
    at: Instant,
    count: u64,
    rate: f64,
}

impl Throughput {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Sample { at: Instant::now(), count: 0, rate: 0.0 }))
    }

    /// The rate between the last call and this one, at which the count is `count`.
    pub(super) fn measure(&self, count: u64, now: Instant) -> f64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(last.at);
        if elapsed >= LEAST_INTERVAL {
            let rate = count.saturating_sub(last.count) as f64 / elapsed.as_secs_f64();
            *last = Sample { at: now, count, rate };
        }
        last.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_time_since_the_last_question() {
        let throughput = Throughput::new();
        let start = throughput.0.lock().unwrap().at;
        let ask = |seconds, count| throughput.measure(count, start + Duration::from_secs_f64(seconds));
        assert_eq!(ask(0.5, 100), 0.0);
        assert_eq!(ask(2.0, 100), 50.0);
        assert_eq!(ask(2.5, 900), 50.0, "too soon to tell");
        assert_eq!(ask(4.0, 100), 0.0);
    }
}
