//! Timings as raw records, a line each in the form that `nvllm bench` writes.
//!
//! An op's weights are drawn anew for each op: a record names no file's hash. Only ops that were
//! held to the reference right before have one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nvllm_bench::record::{self, Case, Correctness, Dtypes, Engine, Model, OURS, Record, SCHEMA, Source};
use nvllm_bench::{files, machine, source};
use nvllm_conformance::{Extents, Setting};
use nvllm_core::Backend;

use super::args::{Args, Shape};
use super::perf::Timing;

/// The workload of these records.
const WORKLOAD: &str = "op";
/// What stands for the hash of weights that are no file's.
const DRAWN: &str = "drawn";

/// The file of records, and what all of them share.
pub(super) struct Records {
    path: PathBuf,
    template: Record,
}

impl Records {
    /// Gathers the facts. Errors if nobody says what was built.
    pub(super) fn new(path: &Path, root: &Path, args: &Args, backend: &dyn Backend) -> Result<Self> {
        let (info, setting, time) = (backend.info(), args.setting()?, machine::now());
        let template = Record {
            schema: SCHEMA,
            workload: WORKLOAD.into(),
            case: Case::default(),
            run: format!("{time}-{}", std::process::id()),
            time,
            engine: Engine {
                name: OURS.into(),
                version: env!("CARGO_PKG_VERSION").into(),
                command: None,
                detail: info.device.clone(),
            },
            source: built(root, args.commit.as_deref())?,
            host: machine::host(info.memory_bytes),
            threads: args.num_threads(),
            device: info.into(),
            model: Model {
                name: String::new(),
                num_parameters: 0,
                sha256: DRAWN.into(),
                seed: Some(setting.seed),
            },
            dtypes: dtypes(args.weights(), setting),
            numerics: setting.numerics.name().into(),
            seed: setting.seed,
            flags: std::env::args().skip(1).map(|flag| files::base_name(&flag)).collect(),
            cost: None,
            series: BTreeMap::new(),
            values: BTreeMap::new(),
            correctness: None,
        };
        Ok(Self { path: path.to_owned(), template })
    }

    /// Appends the record of an op that was timed; `checked` says how it was held to the
    /// reference.
    pub(super) fn add(&self, shape: &Shape, extents: Extents, checked: &str, timing: &Timing) -> Result<()> {
        let op = Some(shape.op.name.clone());
        let case = match extents {
            Extents::Decode { seqs, context } => {
                Case { batch: Some(seqs), context: Some(context), op, ..Case::default() }
            }
            Extents::Prompt(tokens) => {
                Case { batch: Some(1), prompt_len: Some(tokens), op, ..Case::default() }
            }
        };
        let template = self.template.clone();
        let record = Record {
            case,
            time: machine::now(),
            model: Model {
                name: shape.model.clone(),
                num_parameters: shape.num_parameters,
                ..template.model
            },
            cost: Some(timing.cost()),
            series: timing.series(),
            correctness: Some(Correctness { passed: true, detail: checked.to_owned() }),
            ..template
        };
        record::append(&self.path, &[record])?;
        Ok(())
    }
}

fn dtypes(weights: &str, setting: Setting) -> Dtypes {
    Dtypes {
        weights: weights.to_owned(),
        activations: setting.activations.dtype().to_string(),
        kv: setting.kv.to_string(),
    }
}

/// What was built: as said, with `-dirty` if its files differed, or as the repository says.
fn built(root: &Path, said: Option<&str>) -> Result<Source> {
    let Some(said) = said else {
        return source::commit(root)
            .context("the commit cannot be found: use --commit where there is no repository");
    };
    let commit = said.strip_suffix("-dirty");
    Ok(Source { commit: commit.unwrap_or(said).to_owned(), dirty: Some(commit.is_some()) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use nvllm_core::Reference;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_timed_op_is_a_record_that_is_read_again() {
        let args = Cli::parse_from(["ops", "--perf", "--commit", "abc-dirty"]).args;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ops.jsonl");
        let records = Records::new(&path, dir.path(), &args, &Reference::default()).unwrap();
        let spec = crate::model::record(include_bytes!("../../../models/configs/qwen3-0.6b.json")).unwrap();
        let op = nvllm_conformance::ModelOp::all(&spec).unwrap().swap_remove(0);
        let shape = Shape { model: "m".into(), num_parameters: 7, op };
        let timing = Timing::of_times(vec![2e-6, 1e-6, 3e-6]);
        records.add(&shape, Extents::Prompt(5), "held to the reference", &timing).unwrap();
        let read = record::read(&path).unwrap();
        let [record] = &read[..] else { panic!("{read:?}") };
        assert_eq!((record.source.commit.as_str(), record.source.dirty), ("abc", Some(true)));
        assert_eq!(record.median(record::names::STEP_SECONDS), Some(2e-6));
        assert_eq!((record.model.num_parameters, record.case.prompt_len), (7, Some(5)));
        assert_eq!(record.case.op.as_deref(), Some(shape.op.name.as_str()));
    }

    #[test]
    fn without_a_repository_the_commit_must_be_said() {
        let dir = tempfile::tempdir().unwrap();
        assert!(built(dir.path(), None).unwrap_err().to_string().contains("--commit"));
        assert_eq!(built(dir.path(), Some("abc")).unwrap().dirty, Some(false));
    }
}
