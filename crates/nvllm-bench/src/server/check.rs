//! What holds before and after a measurement.

use std::time::{Duration, Instant};

use super::answer::Job;
use super::answerer::Answerer;
use super::texts::Texts;
use crate::record::Correctness;
use crate::{BenchError, Result};

/// How long it may take to be idle again, once all clients are gone.
const SETTLING: Duration = Duration::from_secs(10);

/// Sends one greedy request three ways. Errors if there is no answer, or a wrong one.
pub(super) async fn answers(answerer: &Answerer, texts: &Texts) -> Result<Correctness> {
    const LEN: usize = 16;
    let job = || Job { prompt: texts.prompt(0, 32), output_len: LEN, cancel_after: None };
    let refused = |problem: String| BenchError::Server { problem };
    let first = answerer.send(&job()).await.map_err(|e| refused(e.to_string()))?;
    let second = answerer.send(&job()).await.map_err(|e| refused(e.to_string()))?;
    let whole = answerer.send_whole(&job()).await.map_err(|e| refused(e.to_string()))?;
    let same = first.text == second.text && first.text == whole;
    let counted = first.output_tokens == LEN && second.output_tokens == LEN;
    let detail = format!(
        "a greedy answer of {LEN} tokens twice streamed and once whole: {}, {} tokens counted",
        if same { "equal" } else { "not equal" },
        first.output_tokens
    );
    if same && counted {
        Ok(Correctness { passed: true, detail })
    } else {
        Err(BenchError::Incorrect { detail })
    }
}

/// Errors unless nothing runs, waits or holds KV blocks, as far as that is told.
pub(super) async fn is_idle(answerer: &Answerer) -> Result<()> {
    let began = Instant::now();
    loop {
        let counts = answerer.in_use().await;
        if counts.iter().all(|count| count.is_none_or(|count| count == 0.0)) {
            return Ok(());
        }
        if began.elapsed() > SETTLING {
            let problem = format!(
                "{SETTLING:?} after the last client had gone there are requests or KV blocks in use: {counts:?}"
            );
            return Err(BenchError::Server { problem });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
