//! S7: from the start of a process to its first token.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use nvllm_core::TokenId;
use nvllm_engine::text::EncodeOptions;
use serde::Deserialize;

use super::contract::Workload;
use super::figures::{Figures, median_of};
use crate::context::Context;
use crate::measure::Measurement;
use crate::measure::stepper::Stepper;
use crate::record::{Case, Record, Series, names};
use crate::settings::Binary;
use crate::{BenchError, Result, files, machine, stats};

/// The real program, started again and again.
pub(super) struct Startup;

/// Starts of each kind.
const STARTS: usize = 7;
const QUICK_STARTS: usize = 2;
const PROMPT: &str = "The old lighthouse keeper climbed the narrow stairs every evening, lit the great lamp, and watched the ships \
                      pass slowly along the dark coast until the morning came.";

/// One start.
struct Start {
    first_token: f64,
    ready: f64,
    /// Bytes that came from storage and not from the page cache, where the system tells.
    storage: Option<u64>,
    token: TokenId,
    prompt_tokens: usize,
}

/// What `nvllm generate --json` prints, as far as it matters here.
#[derive(Deserialize)]
struct Report {
    token_ids: Vec<TokenId>,
    usage: Usage,
    speed: Speed,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: usize,
}

#[derive(Deserialize)]
struct Speed {
    time_to_first_token_s: f64,
}

impl Workload for Startup {
    fn name(&self) -> &'static str {
        "startup"
    }

    fn code(&self) -> &'static str {
        "S7"
    }

    fn definition(&self) -> &'static str {
        "`nvllm generate --json -n 1` as a process of its own: seconds from its start until it has reported its first token, and, less \
         the time to first token that it reports, until it was ready; with the weights' file dropped from the page cache (cold) and \
         right after that (warm)"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let Some(binary) = bench.settings.binary.take() else {
            bench.skip("startup", "no nvllm program was given or found");
            return Ok(());
        };
        let result = match bench.open() {
            Ok(model) if model.tokenizer().is_err() => {
                bench.skip("startup", "the model has no tokenizer, so the program takes no prompt");
                Ok(())
            }
            Ok(_) => self.with(bench, &binary),
            Err(error) => Err(error),
        };
        bench.settings.binary = Some(binary);
        result
    }

    fn figures(&self, record: &Record) -> Figures {
        let storage = record
            .values
            .get(names::STORAGE_BYTES)
            .map(|bytes| format!("{:.3} GB read from storage", bytes / 1e9));
        let ready = record.median(names::READY_SECONDS);
        let again = record.median(names::AGAIN_SECONDS);
        Figures {
            headline: median_of(record, names::FIRST_TOKEN_SECONDS),
            rate: None,
            limit: match (ready, again) {
                (Some(ready), _) => {
                    format!(
                        "ready after {}, {}",
                        crate::units::duration(ready),
                        storage.unwrap_or_else(|| "storage unknown".into())
                    )
                }
                (None, Some(again)) => format!("{} for the same prompt again", crate::units::duration(again)),
                (None, None) => "-".into(),
            },
        }
    }
}

impl Startup {
    fn with(&self, bench: &mut Context, binary: &Binary) -> Result<()> {
        let starts = if bench.settings.quick { QUICK_STARTS } else { STARTS };
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        let mut cold_fault = None;
        let weights = weight_files(bench, binary)?;
        for start in 0..starts {
            bench.progress(&format!("startup: {} of {starts}", start + 1));
            if cold_fault.is_none() {
                match weights.iter().try_for_each(|path| files::evict(path)) {
                    Ok(()) => cold.push(once(bench, binary)?),
                    Err(e) => cold_fault = Some(e.to_string()),
                }
            }
            warm.push(once(bench, binary)?);
        }
        let bytes: u64 = weights.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
        let least = cold.iter().map(|start| start.storage.unwrap_or(0)).min().unwrap_or(0);
        if cold_fault.is_none() && least < bytes / 2 {
            cold_fault = Some(format!(
                "the system kept the weights' file in memory ({:.1} of its {:.1} MB were read from storage), so no start was cold",
                least as f64 / 1e6,
                bytes as f64 / 1e6
            ));
        }
        check_tokens(bench, PROMPT, warm.iter().map(|start| start.token))?;
        match cold_fault {
            Some(reason) => bench.skip("startup, cold", &reason),
            None => self.record(bench, "cold", &cold)?,
        }
        self.record(bench, "warm", &warm)
    }

    fn record(&self, bench: &mut Context, state: &str, starts: &[Start]) -> Result<()> {
        let case = Case {
            prompt_len: starts.first().map(|start| start.prompt_tokens),
            state: Some(state.into()),
            ..Case::default()
        };
        let series = vec![
            (names::FIRST_TOKEN_SECONDS, Series::seconds(starts.iter().map(|start| start.first_token))),
            (names::READY_SECONDS, Series::seconds(starts.iter().map(|start| start.ready))),
        ];
        let storage: Option<Vec<f64>> = starts.iter().map(|start| Some(start.storage? as f64)).collect();
        let values = storage.map(|bytes| (names::STORAGE_BYTES, stats::median(bytes))).into_iter().collect();
        bench.record(self.name(), &case, Measurement { cost: None, series, values })
    }
}

/// The files that hold the weights: the program itself if it embeds them.
fn weight_files(bench: &Context, binary: &Binary) -> Result<Vec<PathBuf>> {
    match &bench.subject.dir {
        Some(dir) => files::weight_files(dir),
        None => Ok(vec![binary.path.clone()]),
    }
}

/// Starts the program once.
fn once(bench: &Context, binary: &Binary) -> Result<Start> {
    let failed = |problem: String| BenchError::Program { path: binary.path.clone(), problem };
    let storage_before = machine::storage_read_bytes();
    let mut command = Command::new(&binary.path);
    command.args(["generate", "--json", "--max-tokens", "1", "--temperature", "0", "--ignore-eos"]);
    if let Some(dir) = &bench.subject.dir {
        command.arg("--model").arg(dir);
    }
    command.args(&binary.args).arg(PROMPT).stdout(Stdio::piped()).stderr(Stdio::null());
    let start = Instant::now();
    let mut process = command.spawn().map_err(|e| failed(format!("cannot be started: {e}")))?;
    let stdout = process.stdout.take().ok_or_else(|| failed("has no output".into()))?;
    let mut text = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|e| failed(e.to_string()))?;
        text += &line;
        // The report's last line.
        if line == "}" {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let status = process.wait().map_err(|e| failed(e.to_string()))?;
    if !status.success() {
        return Err(failed(format!("ended with {status}")));
    }
    let report: Report =
        serde_json::from_str(&text).map_err(|e| failed(format!("printed no report: {e}")))?;
    let storage =
        storage_before.zip(machine::storage_read_bytes()).map(|(before, after)| after.saturating_sub(before));
    Ok(Start {
        first_token: seconds,
        ready: seconds - report.speed.time_to_first_token_s,
        storage,
        token: *report.token_ids.first().ok_or_else(|| failed("made no token".into()))?,
        prompt_tokens: report.usage.prompt_tokens,
    })
}

/// The program is another one than this: its first token after `prompt` must be the one that this
/// one computes.
pub(super) fn check_tokens(
    bench: &Context,
    prompt: &str,
    mut tokens: impl Iterator<Item = TokenId>,
) -> Result<()> {
    let model = bench.open()?;
    let encode = EncodeOptions { add_special_tokens: true, ..EncodeOptions::default() };
    let ids: Vec<TokenId> = model.tokenizer()?.encode(prompt, encode)?.into_iter().map(TokenId).collect();
    let limits = bench.limits(&model, 1, ids.len(), ids.len())?;
    let backend = bench.backend()?;
    let logits = Stepper::load(backend.as_ref(), &model, &limits)?.logits(&ids)?;
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
    match tokens.find(|token| Some(token.index()) != best) {
        None => Ok(()),
        Some(token) => Err(BenchError::Incorrect {
            detail: format!("the program that was started made token {token}; this one computes {best:?}"),
        }),
    }
}
