//! What quantised weights and caches gain in speed, from records of `nvllm bench`.
//!
//! A file of records (`COMMIT-cpu.jsonl`) is one build on one machine, which ran one model in
//! several formats, in turns if a format has several runs.

use std::fmt::Write as _;

use super::section::distinct;
use crate::record::{Case, OURS, Record, names};
use crate::stats;

/// Name of the block, and of the folder of its records.
pub(super) const NAME: &str = "formats";

/// The records of one file that timed steps.
#[derive(Clone, Debug)]
pub(super) struct File {
    name: String,
    records: Vec<Record>,
}

/// What a row is about: engine, weights, KV cache.
type Format<'a> = (&'a str, &'a str, &'a str);
/// What a column is about.
type Work<'a> = (&'a str, &'a Case);

impl File {
    pub(super) fn new(name: &str, records: Vec<Record>) -> Self {
        let timed = |record: &Record| record.series.contains_key(names::STEP_SECONDS);
        Self { name: name.into(), records: records.into_iter().filter(timed).collect() }
    }

    fn format(record: &Record) -> Format<'_> {
        (&record.engine.name, &record.dtypes.weights, &record.dtypes.kv)
    }

    /// Seconds of one unit of `work` in `format`: the median of its runs' medians.
    fn seconds(&self, format: Format<'_>, work: Work<'_>) -> Option<f64> {
        let runs = self.records.iter().filter(|record| {
            Self::format(record) == format && (record.workload.as_str(), &record.case) == work
        });
        let medians: Vec<f64> = runs.filter_map(|record| record.median(names::STEP_SECONDS)).collect();
        (!medians.is_empty()).then(|| stats::median(medians))
    }

    /// Bytes that `work` has to read in `format`.
    fn bytes(&self, format: Format<'_>, work: Work<'_>) -> Option<f64> {
        let of = |record: &&Record| {
            Self::format(record) == format && (record.workload.as_str(), &record.case) == work
        };
        Some(self.records.iter().find(of)?.cost.as_ref()?.bytes)
    }

    fn table(&self) -> String {
        let first = &self.records[0];
        let model = first.model.name.split(" --").next().unwrap_or_default();
        let mut text = format!(
            "{model} on {}, activations in {}; {}\n\n",
            first.device.name, first.dtypes.activations, self.name
        );
        let mut works = distinct(self.records.iter().map(|record| (record.workload.as_str(), &record.case)));
        works.sort();
        let formats = distinct(self.records.iter().map(Self::format));
        // Without codes, and with keys and values in the activations' own dtype.
        let plain = formats.iter().find(|(engine, weights, kv)| {
            *engine == OURS && [*weights, *kv] == [&*first.dtypes.activations; 2]
        });
        text += "| weights | KV cache |";
        for (workload, case) in &works {
            let _ = write!(text, " {workload}, {case} |");
        }
        text += &format!("\n|---|---|{}\n", "---|".repeat(works.len()));
        for format @ (engine, weights, kv) in &formats {
            let by = if *engine == OURS { String::new() } else { format!(" ({engine})") };
            let _ = write!(text, "| {weights}{by} | {kv} |");
            for work in &works {
                text += &self.cell(*format, plain.copied(), *work);
            }
            text.push('\n');
        }
        text
    }

    fn cell(&self, format: Format<'_>, plain: Option<Format<'_>>, work: Work<'_>) -> String {
        let Some(seconds) = self.seconds(format, work) else { return " |".into() };
        let mut text = format!(" {:.2} ms", 1e3 * seconds);
        if let Some(plain) = plain.and_then(|plain| self.seconds(plain, work)) {
            let _ = write!(text, ", {:.2}x", plain / seconds);
        }
        if let Some(bytes) = self.bytes(format, work) {
            let _ = write!(text, ", {:.2} GB", 1e-9 * bytes);
        }
        text + " |"
    }
}

/// A table for each file.
pub(super) fn block(files: &[File]) -> String {
    let files = files.iter().filter(|file| !file.records.is_empty());
    let text = files.map(File::table).collect::<Vec<_>>().join("\n");
    if text.is_empty() {
        return "Nothing is on record yet: `nvllm bench decode --quantize int8` measures.\n".into();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::sample;
    use crate::record::{Dtypes, Engine, Series};

    fn record(engine: &str, weights: &str, kv: &str, seconds: f64) -> Record {
        let mut record = sample();
        record.engine = Engine { name: engine.into(), ..record.engine };
        record.dtypes = Dtypes { weights: weights.into(), kv: kv.into(), ..record.dtypes };
        record.series.insert(names::STEP_SECONDS.into(), Series::seconds([seconds, seconds]));
        record
    }

    #[test]
    fn formats_stand_beside_dense_weights() {
        let records = vec![
            record(OURS, "int8 channel", "bf16", 0.06),
            record(OURS, "bf16", "fp8", 0.08),
            record(OURS, "bf16", "bf16", 0.10),
            record(OURS, "int8 channel", "bf16", 0.04),
            record("llama.cpp", "q8_0", "f16", 0.2),
        ];
        let text = block(&[File::new("abc-cpu", records)]);
        // Two runs of one format: the median of both.
        assert!(text.contains("| int8 channel | bf16 | 50.00 ms, 2.00x, 0.00 GB |\n"), "{text}");
        assert!(text.contains("| bf16 | fp8 | 80.00 ms, 1.25x, 0.00 GB |\n"), "{text}");
        assert!(text.contains("| q8_0 (llama.cpp) | f16 | 200.00 ms, 0.50x, 0.00 GB |\n"), "{text}");
        assert!(text.starts_with("m on x, 2 threads, activations in bf16; abc-cpu\n"), "{text}");
    }

    #[test]
    fn without_dense_weights_nothing_is_a_multiple() {
        let text = block(&[File::new("abc-cpu", vec![record(OURS, "q4_0", "bf16", 0.05)])]);
        assert!(text.contains("| q4_0 | bf16 | 50.00 ms, 0.00 GB |\n"), "{text}");
        assert!(block(&[File::new("empty", Vec::new())]).starts_with("Nothing"));
    }
}
