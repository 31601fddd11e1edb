//! Other engines on the same machine, as processes that take their turns by command.
//!
//! Each has an adapter, a Python script under `peers/` that speaks one JSON object a line. What is
//! not installed says so in its first line, and the reason is printed. A peer takes part only if it
//! computes what we compute: the scores of its likeliest tokens after a known prompt are ours up to
//! rounding.

mod agreement;
mod protocol;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nvllm_core::TokenId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::files::base_name;
use crate::measure::SetTimes;
use crate::record::{Correctness, Dtypes, Engine};
use protocol::{Answer, Decoded, Hello, Prefilled, SetRun};

/// Where an adapter may be found.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The peer's name.
    pub name: &'static str,
    /// Pythons to try, in order.
    pub pythons: Vec<PathBuf>,
    /// The adapter.
    pub script: PathBuf,
    /// Its arguments before those that all adapters take.
    pub args: &'static [&'static str],
}

/// Every peer that has an adapter under `scripts`, to be looked for in each of `pythons`. With
/// `quick` without those that take minutes to start.
pub fn installations(scripts: &Path, pythons: &[PathBuf], quick: bool) -> Vec<Installation> {
    let all: [(&str, &str, &[&str], bool); 6] = [
        ("llama.cpp", "llamacpp.py", &[], true),
        ("transformers", "transformers_peer.py", &["eager"], true),
        ("transformers-compile", "transformers_peer.py", &["compile"], false),
        ("vllm", "step_engine.py", &["vllm"], true),
        ("nano-vllm", "step_engine.py", &["nanovllm"], true),
        ("mistral.rs", "mistralrs_peer.py", &[], true),
    ];
    let wanted = all.into_iter().filter(|(.., is_quick)| *is_quick || !quick);
    wanted
        .map(|(name, script, args, _)| Installation {
            name,
            pythons: pythons.to_vec(),
            script: scripts.join(script),
            args,
        })
        .collect()
}

/// What every adapter is given.
pub(crate) struct PeerSetup {
    /// The model's directory.
    pub dir: PathBuf,
    /// Of its weights.
    pub sha256: String,
    /// Threads that compute.
    pub threads: usize,
    /// Where, as torch names it.
    pub device: String,
    /// Where converted weights and logs may lie.
    pub scratch: PathBuf,
    /// The checkpoint's dtype.
    pub weights: String,
}

/// A running peer.
pub struct Peer {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    ops: Vec<String>,
    /// Who it is.
    pub engine: Engine,
    /// Its element types.
    pub dtypes: Dtypes,
    /// Whether it runs the same model as we do.
    pub agreement: Correctness,
}

impl Peer {
    /// Starts it with the first of its Pythons that has it. The error is the reason to go on
    /// without.
    pub(crate) fn start(installation: &Installation, setup: &PeerSetup) -> Result<Self, String> {
        let mut reasons = Vec::new();
        for python in &installation.pythons {
            match Self::start_with(installation, setup, python) {
                Ok(peer) => return Ok(peer),
                Err(reason) => reasons.push(reason),
            }
        }
        reasons.dedup();
        Err(if reasons.is_empty() { "no Python was given".into() } else { reasons.join("; ") })
    }

    fn start_with(installation: &Installation, setup: &PeerSetup, python: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(&setup.scratch)
            .map_err(|e| format!("cannot make {}: {e}", setup.scratch.display()))?;
        let log = setup.scratch.join(format!("{}.log", installation.name));
        let stderr = File::create(&log).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
        let converted = setup.scratch.join(&setup.sha256[..setup.sha256.len().min(12)]);
        let mut command = Command::new(python);
        command.arg(&installation.script).args(installation.args).arg(&setup.dir).arg(converted);
        command.arg(setup.threads.to_string()).arg(&setup.device);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let said = words.map(|word| base_name(&word.to_string_lossy())).collect::<Vec<_>>().join(" ");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut process = command.spawn().map_err(|e| format!("cannot start {}: {e}", python.display()))?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("its pipes are not there".into());
        };
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let read = stdout.read_line(&mut line).map_err(|e| e.to_string());
        let hello = read.and_then(|_| Hello::parse(&line)).map_err(|e| format!("{e}; see {}", log.display()));
        let ready = match hello.and_then(Hello::ready) {
            Ok(ready) => ready,
            Err(reason) => {
                let _ = process.kill();
                let _ = process.wait();
                return Err(reason);
            }
        };
        let pending =
            Correctness { passed: false, detail: "its scores were not compared with ours yet".into() };
        Ok(Self {
            process,
            stdin,
            stdout,
            engine: Engine {
                name: installation.name.into(),
                version: ready.version,
                command: Some(said),
                detail: ready.detail,
            },
            dtypes: Dtypes {
                weights: ready.weights.unwrap_or_else(|| setup.weights.clone()),
                activations: ready.activations,
                kv: ready.kv,
            },
            ops: ready.ops,
            agreement: pending,
        })
    }

    /// Whether it knows a command; the error is the reason to go on without.
    pub(crate) fn can(&self, op: &str) -> Result<(), String> {
        if self.ops.iter().any(|known| known == op) {
            Ok(())
        } else {
            Err(format!("its adapter does not do `{op}`"))
        }
    }

    /// Holds its scores after `prompt` to our `logits`.
    pub(crate) fn agree(&mut self, prompt: &[TokenId], logits: &[f32]) -> Result<(), String> {
        let answer: Prefilled =
            self.ask(&json!({ "op": "prefill", "prompts": [prompt], "reserve": prompt.len() + 1 }))?;
        self.agreement = agreement::check(&answer.scores, logits);
        if self.agreement.passed {
            Ok(())
        } else {
            Err(format!("it does not run the same model: {}", self.agreement.detail))
        }
    }

    /// Forgets everything and runs `prompts` at once, with room for `reserve` tokens each: the
    /// seconds to their first tokens.
    pub(crate) fn prefill(&mut self, prompts: &[Vec<TokenId>], reserve: usize) -> Result<f64, String> {
        let answer: Prefilled =
            self.ask(&json!({ "op": "prefill", "prompts": prompts, "reserve": reserve }))?;
        Ok(answer.seconds)
    }

    /// Goes on by `num` tokens for each prompt: the seconds of each step, or their mean from a peer
    /// that tells no more.
    pub(crate) fn decode(&mut self, num: usize) -> Result<Vec<f64>, String> {
        let answer: Decoded = self.ask(&json!({ "op": "decode", "num": num }))?;
        Ok(answer.seconds)
    }

    /// Runs a set of requests, submitted at once, with continuous batching.
    pub(crate) fn set(
        &mut self,
        prompts: &[Vec<TokenId>],
        output_lens: &[usize],
    ) -> Result<SetTimes, String> {
        let answer: SetRun =
            self.ask(&json!({ "op": "set", "prompts": prompts, "output_lens": output_lens }))?;
        answer.times(prompts.len(), output_lens)
    }

    fn ask<T: for<'a> Deserialize<'a>>(&mut self, command: &Value) -> Result<T, String> {
        writeln!(self.stdin, "{command}").map_err(|e| format!("it has ended ({e})"))?;
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|e| e.to_string())?;
        Answer::parse(&line)
    }
}

impl Drop for Peer {
    /// The process ends with its input; nothing of it stays behind.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests;
