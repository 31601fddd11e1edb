//! The record: one JSON object a line, with everything that its figure rests on.
//!
//! Version 1. Times are seconds, one entry a step or request, in the order measured. Readers ignore fields they do not
//! know; a field's meaning never changes without a new version.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The version that this program writes.
pub(super) const SCHEMA: u32 = 1;
/// Bytes of one line, at most.
const MAX_BYTES: usize = 256 << 10;

/// One measurement of one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What was measured.
    pub kind: Kind,
    /// Shared by the records of one invocation, whose measurements were interleaved.
    pub run: String,
    /// When it ended, UTC.
    pub time: String,
    /// Who ran.
    pub engine: Engine,
    /// Of this repository.
    pub commit: String,
    /// Whether the working tree differed from it.
    pub dirty: bool,
    /// Where.
    pub machine: Machine,
    /// The command line, without the program.
    pub flags: Vec<String>,
    /// With what weights.
    pub model: Model,
    /// Element types.
    pub dtypes: Dtypes,
    /// `invariant`, or the peer's own.
    pub numerics: String,
    /// Threads that compute.
    pub threads: usize,
    /// Prompt tokens of each sequence.
    pub prompt_tokens: usize,
    /// Tokens made after the prompt, per sequence.
    pub output_tokens: usize,
    /// Sequences in each step.
    pub batch: usize,
    /// Raw times: one a decoded token, a prefill, or a process.
    pub seconds: Vec<f64>,
    /// Of processes: the part spent on the same prompt when everything is warm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_prefill_seconds: Option<Vec<f64>>,
    /// The limit measured beside it, if it is one of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Multiplications and additions of one measured unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
    /// Whether the same program computed what it should.
    pub correctness: Option<Correctness>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// One token after another for one sequence.
    Decode,
    /// A whole prompt in one step, first token sampled.
    Prefill,
    /// From process start to the first token, model file in the page cache.
    FirstToken,
}

/// An engine and its version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Engine {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Device and instruction set, in its own words.
    pub detail: String,
}

/// The machine as found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// Processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub num_cpus: usize,
    /// Memory, in bytes.
    pub memory_bytes: usize,
    /// Operating system and kernel.
    pub os: String,
    /// Load average over a minute before the run; above 0 others may have taken their share.
    pub load_before: Option<f64>,
}

/// The weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Model {
    /// Directory name or shape.
    pub name: String,
    /// Parameters, tied weights once.
    pub num_parameters: usize,
    /// Of `model.safetensors`, hexadecimal.
    pub sha256: String,
    /// Seed of random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// Element types.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Dtypes {
    /// Of weights.
    pub weights: String,
    /// Of values between ops.
    pub activations: String,
    /// Of the KV cache.
    pub kv: String,
}

/// Reads of memory by the same threads, one beside each group of measured units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Bandwidth {
    /// Weight and KV bytes that one measured unit streams, on average.
    pub bytes_per_unit: f64,
    /// Units beside each read.
    pub units_per_read: usize,
    /// Bytes of each read.
    pub read_bytes: usize,
    /// Time of each read.
    pub read_seconds: Vec<f64>,
}

/// The result of the correctness check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Correctness {
    /// Whether it passed.
    pub passed: bool,
    /// What was checked, with its worst figures.
    pub detail: String,
}

impl Record {
    /// Refuses what no figure may rest on.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.schema == SCHEMA, "schema {}; this program knows {SCHEMA}", self.schema);
        match &self.correctness {
            None => bail!("the correctness check is missing"),
            Some(c) if !c.passed => bail!("the correctness check failed: {}", c.detail),
            Some(_) => {}
        }
        let good = |seconds: &[f64]| !seconds.is_empty() && seconds.iter().all(|s| s.is_finite() && *s > 0.0);
        ensure!(good(&self.seconds), "raw times are missing or not positive");
        if let Some(b) = &self.bandwidth {
            ensure!(good(&b.read_seconds), "read times are missing or not positive");
            ensure!(
                b.units_per_read > 0 && self.seconds.len() == b.units_per_read * b.read_seconds.len(),
                "{} times beside {} reads of {}",
                self.seconds.len(),
                b.read_seconds.len(),
                b.units_per_read
            );
        }
        Ok(())
    }
}

/// Appends `records` to the file at `path`, or refuses all of them.
pub(super) fn append(path: &Path, records: &[Record]) -> Result<()> {
    let mut text = String::new();
    for record in records {
        let name = format!("{:?} of {}", record.kind, record.engine.name);
        record.check().with_context(|| format!("record refused: {name}"))?;
        let line = serde_json::to_string(record)?;
        ensure!(
            line.len() <= MAX_BYTES,
            "record refused: {name} has {} bytes; {MAX_BYTES} are the most",
            line.len()
        );
        text += &line;
        text.push('\n');
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let file = File::options().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The records of `run` in the file at `path`.
pub(super) fn read(path: &Path, run: &str) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut records = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let at = || format!("{}:{number}", path.display());
        let record: Record = serde_json::from_str(line).with_context(at)?;
        if record.run == run {
            record.check().with_context(at)?;
            records.push(record);
        }
    }
    Ok(records)
}

/// The run of the last record in the file at `path`.
pub(super) fn newest_run(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let last = text.lines().last().with_context(|| format!("{} holds no record", path.display()))?;
    let record: Record =
        serde_json::from_str(last).with_context(|| format!("{}: last line", path.display()))?;
    Ok(record.run)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record that passes: two reads with two tokens beside each.
    pub(in crate::bench) fn sample() -> Record {
        Record {
            schema: SCHEMA,
            kind: Kind::Decode,
            run: "r1".into(),
            time: "2026-01-01T00:00:00Z".into(),
            engine: Engine { name: "nvllm".into(), version: "0.1.0".into(), detail: "avx2".into() },
            commit: "abc".into(),
            dirty: false,
            machine: Machine {
                cpu: "x".into(),
                num_cpus: 2,
                memory_bytes: 1 << 30,
                os: "linux".into(),
                load_before: Some(0.0),
            },
            flags: vec!["bench".into()],
            model: Model { name: "m".into(), num_parameters: 1, sha256: "00".into(), seed: Some(0) },
            dtypes: Dtypes { weights: "bf16".into(), activations: "bf16".into(), kv: "bf16".into() },
            numerics: "invariant".into(),
            threads: 2,
            prompt_tokens: 32,
            output_tokens: 4,
            batch: 1,
            seconds: vec![0.1, 0.1, 0.2, 0.2],
            warm_prefill_seconds: None,
            bandwidth: Some(Bandwidth {
                bytes_per_unit: 90.0,
                units_per_read: 2,
                read_bytes: 100,
                read_seconds: vec![0.1, 0.2],
            }),
            flops: None,
            correctness: Some(Correctness { passed: true, detail: "all".into() }),
        }
    }

    #[test]
    fn a_record_without_a_passed_check_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let failed = Correctness { passed: false, detail: "logits off".into() };
        for (correctness, word) in [(None, "missing"), (Some(failed), "logits off")] {
            let bad = Record { correctness, ..sample() };
            let message = format!("{:#}", append(&path, &[sample(), bad]).unwrap_err());
            assert!(message.contains("refused") && message.contains(word), "{message}");
            assert!(!path.exists(), "nothing of a refused run is kept");
        }
    }

    #[test]
    fn a_record_without_raw_times_is_refused() {
        let mut few = sample();
        few.seconds.pop();
        let mut slow = sample();
        slow.seconds[0] = f64::NAN;
        for bad in [
            few,
            slow,
            Record { seconds: Vec::new(), bandwidth: None, ..sample() },
            Record { schema: 9, ..sample() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn records_are_read_back_by_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b/a.jsonl");
        let other = Record { run: "r2".into(), ..sample() };
        append(&path, &[sample()]).unwrap();
        append(&path, std::slice::from_ref(&other)).unwrap();
        assert_eq!(read(&path, "r2").unwrap(), [other]);
        std::fs::write(&path, "{}\n").unwrap();
        assert!(format!("{:#}", read(&path, "r2").unwrap_err()).contains("a.jsonl:1"));
    }
}
