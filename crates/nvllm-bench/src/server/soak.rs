//! S14: many streams for a long time, after which nothing may be left.

use std::time::Instant;

use super::answer::Job;
use super::load::Run;
use super::session::{ServerSession, ServerWorkload};
use crate::record::{Case, names};
use crate::{BenchError, Result};

/// Round after round of the same load.
pub(super) struct Soak;

const STREAMS: usize = 256;
/// Lengths of prompt and answer.
const LENGTHS: (usize, usize) = (16, 64);
const QUICK: (usize, (usize, usize)) = (16, (8, 16));

impl ServerWorkload for Soak {
    fn name(&self) -> &'static str {
        "soak"
    }

    fn code(&self) -> &'static str {
        "S14"
    }

    fn definition(&self) -> &'static str {
        "over HTTP (--url) or by the engine alone: 256 streams of 64 tokens, round after round for --case-seconds: every \
         request must be answered, nothing may run or hold KV blocks afterwards; the server's memory after the first \
         round and at the end"
    }

    fn run(&self, bench: &mut ServerSession) -> Result<()> {
        let (streams, lengths) = if bench.asked.quick { QUICK } else { (STREAMS, LENGTHS) };
        let (prompt_len, output_len) = bench.asked.lengths.unwrap_or(lengths);
        let all_streams =
            if bench.asked.concurrency.is_empty() { vec![streams] } else { bench.asked.concurrency.clone() };
        for streams in all_streams {
            let case = Case {
                prompt_len: Some(prompt_len),
                output_len: Some(output_len),
                concurrency: Some(streams),
                ..Case::default()
            };
            soak(bench, (prompt_len, output_len), streams)
                .and_then(|(run, values)| bench.record(self, case, &run, &values))?;
        }
        Ok(())
    }
}

/// Rounds of as many requests as streams; what came of all but the first, and the memory after the
/// first and the last.
///
/// Errors if a request was not answered, or something is left.
fn soak(
    bench: &mut ServerSession,
    lengths: (usize, usize),
    streams: usize,
) -> Result<(Run, Vec<(&'static str, f64)>)> {
    let began = Instant::now();
    let first = round(bench, lengths, streams)?;
    let mut all = round(bench, lengths, streams)?;
    while began.elapsed().as_secs_f64() < bench.asked.case_seconds {
        all.add(round(bench, lengths, streams)?);
    }
    bench.check_idle()?;
    let memory = [(names::SERVER_FIRST_BYTES, first.end_bytes), (names::SERVER_LAST_BYTES, all.end_bytes)];
    let values = memory.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Ok((all, values))
}

fn round(bench: &mut ServerSession, (prompt_len, output_len): (usize, usize), streams: usize) -> Result<Run> {
    let first = bench.next_stream(streams);
    let job = |at| Job { prompt: bench.texts.prompt(first + at, prompt_len), output_len, cancel_after: None };
    let run = bench.closed((0..streams).map(job).collect(), streams);
    match run.failed.first().cloned().or((run.refused > 0).then(|| "refused".into())) {
        Some(problem) => {
            let problem = format!("a request of the soak has no answer: {problem}");
            Err(BenchError::Server { problem })
        }
        None => Ok(run),
    }
}
