//! `nvllm verify`: the proof, on this machine, that company changes nothing.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use nvllm_engine::LoadOptions;
use nvllm_engine::verify::{self, Progress, VerifyOptions, VerifyReport};

use crate::flags::{ModelArgs, number};
use crate::output::{note, outln};
use crate::words::printable;
use crate::{backends, human, models};

#[derive(Args)]
#[command(
    long_about = "Prove that company changes nothing: run a set of requests alone, then in other \
chunks, blocks and company, with reused prefixes, several choices and too small a KV cache. Tokens \
and log-probabilities must be the same, bit for bit.

Exit code 1 says that something differs, or that a variation did not happen.",
    after_help = "Examples:
  nvllm verify
  nvllm verify -m Qwen/Qwen3-0.6B --quick
  nvllm verify --num-requests 200 --seed 1 --json"
)]
pub(crate) struct Verify {
    /// Fewer and shorter requests, and fewer variations.
    #[arg(long)]
    pub quick: bool,
    /// Requests in the set: more take longer and mix in more ways [default: 16, or 8 with --quick].
    #[arg(long, value_name = "N", value_parser = number::positive)]
    pub num_requests: Option<usize>,
    /// Draws other requests.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

pub(super) fn run(args: &Verify) -> Result<()> {
    let model = models::open(args.model.model.as_deref())?;
    let model = Arc::new(models::prepare(model, &args.model.load)?);
    let load = LoadOptions { max_num_seqs: None, ..backends::load_options(&args.model.load, None) };
    let options = VerifyOptions { load, quick: args.quick, num_requests: args.num_requests, seed: args.seed };
    let factory = Arc::new(backends::factory(&args.model.load.device));
    let begun = std::time::Instant::now();
    let mut progress = |progress: Progress<'_>| {
        note!("{} of {}: {}", progress.done + 1, progress.total, progress.running);
    };
    let report = verify::verify(&model, &factory, &options, &mut progress)?;
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        outln!("{}", words(&report))?;
    }
    note!("verified in {}", human::seconds(begun.elapsed().as_secs_f64()));
    let bad = report.rows.iter().filter(|row| row.outcome != verify::Outcome::Equal).count();
    if bad > 0 {
        let rows = human::count(report.rows.len(), "variation");
        bail!("{bad} of {rows} differ from requests that run alone, or did not happen: see the table");
    }
    Ok(())
}

/// The report for people.
fn words(report: &VerifyReport) -> String {
    let (requests, tokens) = (human::count(report.requests, "request"), human::count(report.tokens, "token"));
    let head = format!(
        "{} on {} ({}): {requests}, {tokens}, bit for bit as each request alone",
        report.model, report.backend, report.device
    );
    printable(&format!("{head}\n\n{report}")).trim_end().to_owned()
}
