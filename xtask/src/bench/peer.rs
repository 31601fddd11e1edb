//! llama.cpp, through its Python package, as a process that takes its turns by command.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use nvllm_core::TokenId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::record::{Correctness, Engine};

/// What the process says first.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Hello {
    Missing { missing: String },
    Ready { engine: String, version: String, system: String, kv: String },
}

/// A prompt that it ran.
#[derive(Debug, Deserialize)]
pub(super) struct Prefill {
    /// Time, sampling included.
    pub seconds: f64,
    /// The likeliest next tokens with their logits.
    pub top: Vec<(u32, f32)>,
}

/// Tokens that it made.
#[derive(Debug, Deserialize)]
pub(super) struct Decode {
    /// Time of each, sampling included.
    pub seconds: Vec<f64>,
}

/// The process.
pub(super) struct Peer {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Who it is.
    pub engine: Engine,
    /// Its KV cache's dtype.
    pub kv: String,
}

impl Peer {
    /// Starts it on the weights of `model_dir`, as many threads as ours. The inner error is the reason to go on without.
    pub(super) fn start(
        python: &Path,
        script: &Path,
        model_dir: &Path,
        gguf: &Path,
        num_threads: usize,
    ) -> Result<Result<Self, String>> {
        let mut command = Command::new(python);
        command.arg(script).arg(model_dir).arg(gguf).arg(num_threads.to_string());
        command.arg(super::driver::CONTEXT.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = match command.spawn() {
            Ok(process) => process,
            Err(error) => return Ok(Err(format!("cannot start {}: {error}", python.display()))),
        };
        let stdin = process.stdin.take().context("no pipe")?;
        let mut stdout = BufReader::new(process.stdout.take().context("no pipe")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        match serde_json::from_str(&line) {
            Ok(Hello::Ready { engine, version, system, kv }) => {
                let engine = Engine { name: engine, version, detail: system };
                Ok(Ok(Self { process, stdin, stdout, engine, kv }))
            }
            Ok(Hello::Missing { missing }) => Ok(Err(format!("missing: {missing}"))),
            Err(_) => bail!("{} ended before it was ready ({})", script.display(), process.wait()?),
        }
    }

    /// Forgets everything and runs `prompt`.
    pub(super) fn prefill(&mut self, prompt: &[TokenId]) -> Result<Prefill> {
        self.ask(&json!({ "op": "prefill", "ids": prompt }))
    }

    /// Goes on by `num` tokens.
    pub(super) fn decode(&mut self, num: usize) -> Result<Decode> {
        self.ask(&json!({ "op": "decode", "num": num }))
    }

    fn ask<T: for<'a> Deserialize<'a>>(&mut self, command: &Value) -> Result<T> {
        writeln!(self.stdin, "{command}")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{} answered {line:?}", self.engine.name))
    }
}

impl Drop for Peer {
    /// The process ends with its input; nothing of it stays behind.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether the peer runs the same model: its likeliest tokens have the logits that we compute, up to rounding.
///
/// Both round activations to 16 bits, at other places: a twentieth of the largest logit was never reached, while another
/// model's logits differ by as much as they are large.
pub(super) fn agreement(top: &[(u32, f32)], ours: &[f32]) -> Correctness {
    let largest = top.iter().map(|(_, logit)| logit.abs()).fold(0.0, f32::max);
    let differences =
        top.iter().map(|(id, logit)| ours.get(*id as usize).map_or(f32::NAN, |x| (x - logit).abs()));
    let worst = differences.fold(0.0, |worst: f32, d| if d.is_nan() { f32::NAN } else { worst.max(d) });
    let passed = !top.is_empty() && worst <= 0.05 * largest;
    let detail = format!(
        "logits of its {} likeliest tokens after the prompt differ from ours by at most {worst:.3} (largest {largest:.1})",
        top.len()
    );
    Correctness { passed, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_model_does_not_agree() {
        let ours = [0.0, 4.1, 3.9];
        assert!(agreement(&[(1, 4.0), (2, 4.0)], &ours).passed);
        assert!(!agreement(&[(1, 4.0), (0, 4.0)], &ours).passed);
        assert!(!agreement(&[(7, 4.0)], &ours).passed, "a token that we do not have");
        assert!(!agreement(&[], &ours).passed);
        assert!(!agreement(&[(1, 4.0)], &[0.0, f32::NAN]).passed);
    }

    #[test]
    fn recorded_answers_are_understood() {
        let ready = r#"{"engine": "llama.cpp", "version": "v", "system": "AVX2 = 1", "weights": "bf16", "kv": "f16", "load_seconds": 1.0}"#;
        assert!(matches!(serde_json::from_str(ready).unwrap(), Hello::Ready { kv, .. } if kv == "f16"));
        let missing = r#"{"missing": "Python package gguf"}"#;
        assert!(matches!(serde_json::from_str(missing).unwrap(), Hello::Missing { .. }));
        let prefill: Prefill =
            serde_json::from_str(r#"{"seconds": 2.5, "top": [[7, 4.5], [1, 4.0]]}"#).unwrap();
        assert!(prefill.seconds == 2.5 && prefill.top[0] == (7, 4.5));
        let decode: Decode = serde_json::from_str(r#"{"seconds": [0.1, 0.2], "ids": [1, 2]}"#).unwrap();
        assert_eq!(decode.seconds, [0.1, 0.2]);
    }

    #[test]
    fn a_python_that_is_not_there_is_a_reason() {
        let nowhere = Path::new("no-such-python");
        let reason = Peer::start(nowhere, nowhere, nowhere, nowhere, 1).unwrap().err().unwrap();
        assert!(reason.contains("no-such-python"), "{reason}");
    }
}
