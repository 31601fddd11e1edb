//! S11: decoding on a machine that is busy with something else.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nvllm_core::TokenId;
use serde::Deserialize;

use super::contract::Workload;
use super::figures::{Figures, median_of};
use super::startup;
use crate::context::Context;
use crate::measure::{Measurement, turns};
use crate::record::{Case, Record, Series, names};
use crate::{BenchError, Result};

/// The real program, alone and beside one spinning thread for each processor.
pub(super) struct Busy;

const ROUNDS: usize = 7;
const QUICK_ROUNDS: usize = 3;
const PROMPT: &str = "Once upon a time";
const OUTPUT_LEN: usize = 256;
const STATES: [&str; 2] = ["idle", "busy"];

/// What `nvllm generate --json` prints, as far as it matters here.
#[derive(Deserialize)]
struct Report {
    token_ids: Vec<TokenId>,
    speed: Speed,
}

#[derive(Deserialize)]
struct Speed {
    decode_tokens_per_second: f64,
}

impl Workload for Busy {
    fn name(&self) -> &'static str {
        "busy"
    }

    fn code(&self) -> &'static str {
        "S11"
    }

    fn definition(&self) -> &'static str {
        "`nvllm generate --json -n 256` as a process of its own: mean seconds of a decode step after the first token, alone (idle) and \
         beside another process with a spinning thread for each processor (busy), in turn"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let Some(binary) = bench.settings.binary.take() else {
            bench.skip("busy", "no nvllm program was given or found");
            return Ok(());
        };
        let result = self.with(bench, &binary.path, &binary.args);
        bench.settings.binary = Some(binary);
        result
    }

    fn figures(&self, record: &Record) -> Figures {
        Figures {
            headline: format!("{} a step", median_of(record, names::STEP_SECONDS)),
            rate: record.median(names::STEP_SECONDS).map(f64::recip),
            limit: "-".into(),
        }
    }
}

impl Busy {
    fn with(&self, bench: &mut Context, program: &Path, args: &[String]) -> Result<()> {
        let rounds = if bench.settings.quick { QUICK_ROUNDS } else { ROUNDS };
        let first = once(bench, program, args)?;
        startup::check_tokens(bench, PROMPT, first.token_ids.first().copied().into_iter())?;
        let mut seconds = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in turns(round, STATES.len()) {
                let state = STATES[turn];
                bench.progress(&format!("busy, {state}: {} of {rounds}", round + 1));
                let run = || once(bench, program, args);
                let report = if state == "busy" { beside_spinners(run)? } else { run()? };
                seconds[turn].push(report.speed.decode_tokens_per_second.recip());
            }
        }
        for (state, seconds) in STATES.into_iter().zip(seconds) {
            let case = Case { output_len: Some(OUTPUT_LEN), state: Some(state.into()), ..Case::default() };
            let series = vec![(names::STEP_SECONDS, Series::seconds(seconds))];
            bench.record(self.name(), &case, Measurement { series, ..Measurement::default() })?;
        }
        Ok(())
    }
}

/// Runs the program once.
fn once(bench: &Context, path: &Path, args: &[String]) -> Result<Report> {
    let failed = |problem: String| BenchError::Program { path: path.to_path_buf(), problem };
    let num = OUTPUT_LEN.to_string();
    let mut command = Command::new(path);
    command.args(["generate", "--json", "--max-tokens", &num, "--temperature", "0", "--ignore-eos"]);
    if let Some(dir) = &bench.subject.dir {
        command.arg("--model").arg(dir);
    }
    let output = command.args(args).arg(PROMPT).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map_err(|e| failed(format!("cannot be started: {e}")))?;
    if !output.status.success() {
        return Err(failed(format!("ended with {}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(format!("printed no report: {e}")))
}

/// Calls `f` while this process keeps every processor busy.
fn beside_spinners<T>(f: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let num = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..num {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let value = f();
        stop.store(true, Ordering::Relaxed);
        value
    })
}
