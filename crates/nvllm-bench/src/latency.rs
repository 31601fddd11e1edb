//! Latencies of requests, defined as vLLM's benchmark defines them: other tools give the same names
//! to other things.

use std::time::{Duration, Instant};

/// A latency and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Short name.
    pub name: &'static str,
    /// What is measured, from when to when.
    pub meaning: &'static str,
}

/// Time to first token.
pub const TTFT: Definition = Definition {
    name: "TTFT",
    meaning: "from the submission of a request to its first output token, waiting included",
};
/// Time per output token.
pub const TPOT: Definition = Definition {
    name: "TPOT",
    meaning: "(E2EL - TTFT) / (output tokens - 1), one value a request: the first token is not in it",
};
/// Inter-token latency.
pub const ITL: Definition = Definition {
    name: "ITL",
    meaning: "every gap between two output tokens of a request, pooled over all requests",
};
/// End-to-end latency.
pub const E2EL: Definition =
    Definition { name: "E2EL", meaning: "from the submission of a request to its last output token" };

/// All of them, in the order of tables.
pub const DEFINITIONS: [Definition; 4] = [TTFT, TPOT, ITL, E2EL];

/// When the tokens of one request came.
#[derive(Clone, Debug, Default)]
pub struct RequestTimes {
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// Seconds from submission to each output token.
    pub token_seconds: Vec<f64>,
}

impl RequestTimes {
    /// Of tokens that came `at` these times.
    pub fn new(prompt_tokens: usize, submitted: Instant, at: &[Instant]) -> Self {
        let seconds =
            |at: &Instant| at.saturating_duration_since(submitted).max(Duration::from_nanos(1)).as_secs_f64();
        Self { prompt_tokens, token_seconds: at.iter().map(seconds).collect() }
    }

    /// [`TTFT`].
    pub fn ttft(&self) -> Option<f64> {
        self.token_seconds.first().copied()
    }

    /// [`E2EL`].
    pub fn e2el(&self) -> Option<f64> {
        self.token_seconds.last().copied()
    }

    /// The [`ITL`]s.
    pub fn itl(&self) -> impl Iterator<Item = f64> + '_ {
        self.token_seconds.windows(2).map(|pair| pair[1] - pair[0])
    }
}

/// [`TPOT`]; `None` of a request with one output token.
pub fn tpot(ttft: f64, e2el: f64, output_tokens: f64) -> Option<f64> {
    (output_tokens > 1.0).then(|| (e2el - ttft) / (output_tokens - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_is_in_ttft_and_not_in_tpot() {
        let start = Instant::now();
        let at = [500, 600, 800].map(|ms| start + Duration::from_millis(ms));
        let times = RequestTimes::new(7, start, &at);
        let (ttft, e2el) = (times.ttft().unwrap(), times.e2el().unwrap());
        assert!((ttft - 0.5).abs() < 1e-9 && (e2el - 0.8).abs() < 1e-9);
        assert!((tpot(ttft, e2el, 3.0).unwrap() - 0.15).abs() < 1e-9);
        let itl: Vec<f64> = times.itl().collect();
        assert!((itl[0] - 0.1).abs() < 1e-9 && (itl[1] - 0.2).abs() < 1e-9 && itl.len() == 2);
        assert_eq!(tpot(0.5, 0.5, 1.0), None);
        assert_eq!(RequestTimes::default().ttft(), None);
    }
}
