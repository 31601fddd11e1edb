//! S2: requests of fixed lengths, so many at once.
//!
//! As `InferenceX` sets it up: lengths drawn evenly between 0.8 of the given one and it, the end of
//! the text ignored, requests as soon as there is room. Here 4 requests for each that runs at once,
//! after one round of warm-up.

use super::answer::Job;
use super::session::{ServerSession, ServerWorkload};
use crate::Result;
use crate::measure::prompt::draws;
use crate::record::Case;

/// Fixed lengths.
pub(super) struct Serve;

/// Share of a length that a drawn one has at least.
const RATIO: f64 = 0.8;
/// Requests for each that runs at once.
const ROUNDS: usize = 4;
/// Lengths of prompt and answer, and how many at once.
const CASES: [((usize, usize), &[usize]); 2] = [((1024, 1024), &[1, 16, 64, 256]), ((8192, 1024), &[16])];
const QUICK: ((usize, usize), &[usize]) = ((128, 128), &[1, 16]);

impl ServerWorkload for Serve {
    fn name(&self) -> &'static str {
        "serve"
    }

    fn code(&self) -> &'static str {
        "S2"
    }

    fn definition(&self) -> &'static str {
        "over HTTP (--url) or by the engine alone: prompts and answers of 1,024 and 1,024 tokens with 1 to 256 \
         requests at once, and of 8,192 and 1,024 with 16: TTFT, TPOT, ITL, E2EL, tokens a second"
    }

    fn run(&self, bench: &mut ServerSession) -> Result<()> {
        let cases = if bench.asked.quick { vec![QUICK] } else { CASES.to_vec() };
        for (lengths, all_at_once) in cases {
            let lengths = bench.asked.lengths.unwrap_or(lengths);
            let given = bench.asked.concurrency.clone();
            let at_once = if given.is_empty() { all_at_once.to_vec() } else { given };
            for concurrency in at_once {
                self.case(bench, lengths, concurrency)?;
            }
            if bench.asked.lengths.is_some() {
                break;
            }
        }
        Ok(())
    }
}

impl Serve {
    fn case(&self, bench: &mut ServerSession, lengths: (usize, usize), concurrency: usize) -> Result<()> {
        let (prompt_len, output_len) = lengths;
        let case = Case {
            prompt_len: Some(prompt_len),
            output_len: Some(output_len),
            num_requests: Some(ROUNDS * concurrency),
            concurrency: Some(concurrency),
            ..Case::default()
        };
        let context = bench.context();
        if prompt_len + output_len > context {
            bench.skip(&format!("serve, {case}"), &format!("the server's context is {context} tokens"));
            return Ok(());
        }
        // Prompts that nobody has sent before, so that no cache knows them.
        let stream = bench.next_stream(ROUNDS * concurrency + concurrency);
        let mut random = draws(stream as u64);
        let mut job = |at: usize| {
            let mut drawn = |len: usize| {
                let least = (len as f64 * RATIO).ceil();
                (least + random.next().unwrap_or(0.0) * (len as f64 - least + 1.0)).floor() as usize
            };
            let (prompt_len, output_len) = (drawn(prompt_len).max(1), drawn(output_len).max(1));
            Job { prompt: bench.texts.prompt(stream + at, prompt_len), output_len, cancel_after: None }
        };
        let warm_up: Vec<Job> = (0..concurrency).map(|at| Job { output_len: 8, ..job(at) }).collect();
        let jobs: Vec<Job> = (0..ROUNDS * concurrency).map(|at| job(concurrency + at)).collect();
        bench.closed(warm_up, concurrency);
        let run = bench.closed(jobs, concurrency);
        bench.record(self, case, &run, &[])
    }
}
