//! Load to first token, as a user meets it: a process of its own, from its start.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nvllm_cpu::{CpuBackend, PoolConfig};

use super::ModelArgs;
use super::driver::{Checkpoint, Driver, prompt};

/// Tokens of the prompt.
pub(super) const PROMPT: usize = 32;

/// The process that is timed: one line at the first token, another with the seconds that the same prompt takes again.
pub(super) fn child(_: &Path, args: &ModelArgs) -> Result<ExitCode> {
    let dir = args.model.as_ref().context("give --model")?;
    let checkpoint = Checkpoint::open(dir)?;
    let pool = PoolConfig { threads: args.threads, pin: args.pin, ..PoolConfig::default() };
    let backend = CpuBackend::new(&pool)?;
    let mut driver = Driver::load(&backend, &checkpoint, args.activations.core())?;
    let ids = prompt(PROMPT, checkpoint.spec.vocab_size);
    driver.prefill(&ids)?;
    println!("first");
    std::io::stdout().flush()?;
    println!("{}", driver.prefill(&ids)?.0);
    Ok(ExitCode::SUCCESS)
}

/// Starts the process once: seconds to its first token, and those of the same prompt when everything is warm.
pub(super) fn once(dir: &Path, args: &ModelArgs, num_threads: usize) -> Result<(f64, f64)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "first-token", "--activations", args.activations.name(), "--threads"]);
    command.arg(num_threads.to_string()).arg("--model").arg(dir).stdout(Stdio::piped());
    if args.pin {
        command.arg("--pin");
    }
    let start = Instant::now();
    let mut process = command.spawn().context("cannot start this program again")?;
    let mut lines = BufReader::new(process.stdout.take().context("no pipe")?).lines();
    let first = lines.next().transpose()?;
    let seconds = start.elapsed().as_secs_f64();
    let warm = lines.next().transpose()?;
    ensure!(process.wait()?.success() && first.is_some(), "the process that makes one token failed");
    Ok((seconds, warm.context("no second line")?.parse()?))
}
