//! The points: what each line's records and the roofline give for each batch.

use std::collections::BTreeMap;
use std::path::Path;

use super::marker::{Marker, Source};
use crate::record::{self, OURS, Record, names};
use crate::report::section::distinct;
use crate::{BenchError, Result, stats};

/// Tokens that the cache holds of each sequence, in all records that are drawn.
pub(super) const CONTEXT: usize = 128;

/// Batches, ascending, and tokens a second.
type Points = Vec<(usize, f64)>;

pub(super) struct Curves {
    /// The model on the device, in words.
    pub(super) subject: String,
    /// Of the model: its size, and how its weights and its cache are stored.
    pub(super) detail: String,
    /// In the marker's order, without those of peers that are not on record.
    pub(super) lines: Vec<Line>,
    /// What the rates measured beside the steps allow.
    pub(super) roofline: Points,
}

pub(super) struct Line {
    pub(super) label: String,
    pub(super) points: Points,
}

impl Curves {
    /// Of the records in `dir` that `marker` names.
    ///
    /// Errors if a file cannot be read or holds no decode step at [`CONTEXT`], if a line of ours
    /// has no records, or if the records were not made with one model on one device.
    pub(super) fn read(dir: &Path, marker: &Marker<'_>) -> Result<Self> {
        let mut files = BTreeMap::new();
        for file in marker.files() {
            files.insert(file, steps(file, record::read(&dir.join(format!("{file}.jsonl")))?)?);
        }
        let lines = marker.lines.iter().map(|line| Ok((line, of_line(&files[line.file], line)?)));
        let lines: Vec<(&Source<'_>, Vec<&Record>)> = lines.collect::<Result<_>>()?;
        let all = || lines.iter().flat_map(|(_, records)| records.iter().copied());
        let [subject, detail] = subject(marker.name, all())?;
        let roofline = points(all(), least_seconds);
        if roofline.is_empty() {
            let what = "cost, read_bandwidth and matmul_rate";
            return Err(refused(marker.name, format!("no record has {what}, which make the roofline")));
        }
        let line = |(source, records): (&Source<'_>, Vec<&Record>)| {
            let seconds = |record: &Record| record.median(names::STEP_SECONDS);
            Line { label: source.label.into(), points: points(records.into_iter(), seconds) }
        };
        let lines = lines.into_iter().map(line).filter(|line| !line.points.is_empty()).collect();
        Ok(Self { subject, detail, lines, roofline })
    }

    /// All batches, ascending.
    pub(super) fn batches(&self) -> Vec<usize> {
        let lines = self.lines.iter().flat_map(|line| &line.points);
        let mut batches = distinct(lines.chain(&self.roofline).map(|(batch, _)| *batch));
        batches.sort_unstable();
        batches
    }
}

/// The records that timed whole decode steps at [`CONTEXT`].
fn steps(file: &str, mut records: Vec<Record>) -> Result<Vec<Record>> {
    records.retain(|record| {
        let case = &record.case;
        record.workload == "decode"
            && case.context == Some(CONTEXT)
            && case.batch.is_some_and(|batch| batch > 0)
            && case.op.is_none()
            && case.state.is_none()
            && record.series.contains_key(names::STEP_SECONDS)
    });
    if records.is_empty() {
        return Err(refused(file, format!("no record of decode at context {CONTEXT} has step_seconds")));
    }
    Ok(records)
}

/// Those that `line` names; none only where a peer was not measured.
fn of_line<'a>(records: &'a [Record], line: &Source<'_>) -> Result<Vec<&'a Record>> {
    let wanted = |record: &&Record| {
        record.engine.name == line.engine && line.numerics.is_none_or(|numerics| numerics == record.numerics)
    };
    let found: Vec<&Record> = records.iter().filter(wanted).collect();
    let numerics = distinct(found.iter().map(|record| record.numerics.as_str()));
    if numerics.len() > 1 {
        let problem = format!(
            "the line `{}` would mix numerics: {}; name one behind the engine",
            line.label,
            numerics.join(", ")
        );
        return Err(refused(line.file, problem));
    }
    if found.is_empty() && line.engine == OURS {
        return Err(refused(line.file, format!("it holds no records for the line `{}`", line.label)));
    }
    Ok(found)
}

/// [`Curves::subject`] and its detail, of which there must be one: all records share the size of
/// the model, ours the device and the dtypes too. A peer's are in its own words.
fn subject<'a>(chart: &str, records: impl Iterator<Item = &'a Record> + Clone) -> Result<[String; 2]> {
    let ours = records.clone().filter(|record| record.is_ours());
    let sizes = distinct(records.map(|record| record.model.num_parameters));
    let devices = distinct(ours.clone().map(|record| record.device.name.as_str()));
    let dtypes = distinct(ours.clone().map(|record| &record.dtypes));
    let mix = |what: &str, values: Vec<String>| {
        Err(refused(chart, format!("its records mix {what}: {}", values.join("; "))))
    };
    if sizes.len() > 1 {
        return mix("numbers of parameters", sizes.iter().map(usize::to_string).collect());
    }
    if devices.len() > 1 {
        return mix("devices", devices.iter().map(ToString::to_string).collect());
    }
    if dtypes.len() > 1 {
        return mix("dtypes", dtypes.iter().map(|dtypes| format!("{dtypes:?}")).collect());
    }
    let Some(first) = ours.into_iter().next() else {
        return Err(refused(chart, "it names no records of nvllm".into()));
    };
    let (model, dtypes) = (&first.model, &first.dtypes);
    Ok([
        format!("{} on {}", model.name, first.device.name),
        format!("{} parameters, weights {}, KV {}", model.num_parameters, dtypes.weights, dtypes.kv),
    ])
}

/// The time that the hardware needs for a step.
fn least_seconds(record: &Record) -> Option<f64> {
    let cost = record.cost?;
    let (read, rate) = (record.median(names::READ_BANDWIDTH)?, record.median(names::MATMUL_RATE)?);
    Some((cost.bytes / read).max(cost.flops / rate))
}

/// Each batch divided by the median over its runs of the `seconds` of a step.
fn points<'a>(records: impl Iterator<Item = &'a Record>, seconds: impl Fn(&Record) -> Option<f64>) -> Points {
    let mut of_batch = BTreeMap::<usize, Vec<f64>>::new();
    for record in records {
        if let (Some(batch), Some(seconds)) = (record.case.batch, seconds(record)) {
            of_batch.entry(batch).or_default().push(seconds);
        }
    }
    of_batch.into_iter().map(|(batch, seconds)| (batch, batch as f64 / stats::median(seconds))).collect()
}

fn refused(file: &str, problem: String) -> BenchError {
    BenchError::Data { file: file.into(), problem }
}
