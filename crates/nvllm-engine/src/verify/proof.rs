//! What shows that a variation happened.

use crate::EngineStats;

/// Counts before and after a run.
pub(super) struct Evidence {
    pub before: EngineStats,
    pub after: EngineStats,
    /// Steps of the baseline.
    pub baseline_steps: u64,
    /// Steps that a run with stop tokens takes where none is found late.
    pub steps_with_stops: u64,
}

impl Evidence {
    fn grown(&self, count: impl Fn(&EngineStats) -> u64) -> u64 {
        count(&self.after) - count(&self.before)
    }
}

/// What a variation has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing beyond having been loaded so.
    Loaded,
    /// More steps than the baseline took: prompts were cut.
    Chunked,
    /// Fewer steps than the baseline took: requests shared steps.
    Batched,
    /// Steps that ran for nothing: they were in flight when a stop token was found.
    InFlight,
    /// Keys and values were taken over.
    Cached,
    /// Somebody was preempted.
    Preempted,
    /// Somebody was preempted, and keys and values were taken over.
    PreemptedAndCached,
    /// Unrelated requests ran beside, and some were aborted.
    Companions,
}

impl Proof {
    /// What happened; as an error what did not.
    pub(super) fn check(self, evidence: &Evidence) -> Result<String, String> {
        let baseline_steps = evidence.baseline_steps;
        let steps = evidence.grown(|s| s.num_steps);
        let cached = evidence.grown(|s| s.num_cached_tokens);
        let preempted = evidence.grown(|s| s.num_preemptions);
        let aborted = evidence.grown(|s| s.finished.aborted);
        let against = format!("steps: {steps}, baseline: {baseline_steps}");
        let preemptions = format!("preemptions: {preempted}");
        let happened = |did: bool, what: String, not: &str| if did { Ok(what) } else { Err(not.to_owned()) };
        match self {
            Self::Loaded => Ok(String::new()),
            Self::Chunked => happened(steps > baseline_steps, against, "no prompt was cut"),
            Self::Batched => happened(steps < baseline_steps, against, "no two requests shared a step"),
            Self::InFlight => {
                let late = steps.saturating_sub(evidence.steps_with_stops);
                happened(late > 0, format!("steps after a stop: {late}"), "no step was in flight at a stop")
            }
            Self::Cached => {
                happened(cached > 0, format!("tokens taken over: {cached}"), "nothing was taken over")
            }
            Self::Preempted => happened(preempted > 0, preemptions, "nothing was preempted"),
            Self::PreemptedAndCached => happened(preempted > 0, preemptions, "nothing was preempted")
                .and_then(|what| {
                    happened(
                        cached > 0,
                        format!("{what}, tokens taken over: {cached}"),
                        "nothing was taken over",
                    )
                }),
            Self::Companions => {
                let ended = evidence.grown(|s| s.finished.length);
                happened(
                    aborted > 0,
                    format!("ended: {ended}, aborted: {aborted}"),
                    "no companion was aborted",
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_proved_by_counts_that_stand_still() {
        let all = [
            Proof::Chunked,
            Proof::Batched,
            Proof::InFlight,
            Proof::Cached,
            Proof::Preempted,
            Proof::PreemptedAndCached,
            Proof::Companions,
        ];
        let before =
            EngineStats { num_steps: 5, num_cached_tokens: 5, num_preemptions: 5, ..EngineStats::default() };
        let after = EngineStats { num_steps: 15, ..before };
        for proof in all {
            let evidence = Evidence { before, after, baseline_steps: 10, steps_with_stops: 10 };
            assert!(proof.check(&evidence).is_err(), "{proof:?}");
        }
        let half = EngineStats { num_preemptions: 6, ..after };
        let evidence = Evidence { before, after: half, baseline_steps: 10, steps_with_stops: 8 };
        assert_eq!(Proof::Preempted.check(&evidence), Ok("preemptions: 1".into()));
        assert_eq!(Proof::PreemptedAndCached.check(&evidence), Err("nothing was taken over".into()));
        assert_eq!(Proof::InFlight.check(&evidence), Ok("steps after a stop: 2".into()));
    }
}
