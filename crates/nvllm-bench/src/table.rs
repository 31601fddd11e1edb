//! Tables of a run: every figure computed from records, nothing else.

use std::fmt::Write as _;

use crate::latency::{self, DEFINITIONS};
use crate::record::{Case, Record, names};
use crate::workload::figures::ABOVE;
use crate::workload::ops::LEAST_SHARE;
use crate::{stats, workload};

/// Markdown, one row a record, with our speedup over each peer: our rate divided by its rate.
///
/// Ops that take less than `LEAST_SHARE` of their step are left out.
pub fn figures(records: &[Record]) -> String {
    let mut text = String::from(
        "| workload | engine | median | tokens/s | of the limit | speedup |\n|---|---|---|---|---|---|\n",
    );
    for record in records.iter().filter(|record| !is_small(record, records)) {
        let figures = workload::figures(record);
        let ours = records.iter().find(|other| other.is_ours() && other.compares_to(record));
        let ratio = match (ours.and_then(|ours| workload::figures(ours).rate), figures.rate) {
            (Some(ours), Some(rate)) if !record.is_ours() => format!("{:.2}x", ours / rate),
            _ => "-".into(),
        };
        let rate = figures.rate.map_or_else(|| "-".into(), |rate| format!("{rate:.1}"));
        let (workload, engine) = (&record.workload, &record.engine.name);
        let _ = writeln!(
            text,
            "| {workload}, {} | {engine} | {} | {rate} | {} | {ratio} |",
            record.case, figures.headline, figures.limit
        );
    }
    if text.contains(ABOVE) {
        text += "\n(!) above the limit as it was measured: caches helped, or other kernels than ours are faster.\n";
    }
    text
}

/// Whether it is an op that takes less than [`LEAST_SHARE`] of its step: of all ops of the same
/// step in the same run.
fn is_small(record: &Record, records: &[Record]) -> bool {
    let Some(seconds) = record.median(names::STEP_SECONDS).filter(|_| record.case.op.is_some()) else {
        return false;
    };
    let without_op = |case: &Case| Case { op: None, ..case.clone() };
    let of_step = records.iter().filter(|other| {
        other.case.op.is_some()
            && other.workload == record.workload
            && other.run == record.run
            && other.engine.name == record.engine.name
            && without_op(&other.case) == without_op(&record.case)
    });
    seconds < LEAST_SHARE * of_step.filter_map(|other| other.median(names::STEP_SECONDS)).sum::<f64>()
}

/// Markdown: latencies of the records that hold requests, with the definitions below; empty if none
/// does.
pub fn latencies(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        let (ttft, e2el) = (record.series(names::TTFT_SECONDS), record.series(names::E2EL_SECONDS));
        let outputs = record.series(names::OUTPUT_TOKENS);
        if ttft.is_empty() || ttft.len() != e2el.len() {
            continue;
        }
        // A set that was run more than once lists its requests once.
        let times = ttft.iter().zip(&e2el).zip(outputs.iter().cycle());
        let tpot: Vec<f64> =
            times.filter_map(|((&ttft, &e2el), &tokens)| latency::tpot(ttft, e2el, tokens)).collect();
        let columns = [ttft, tpot, record.series(names::ITL_SECONDS), e2el];
        let _ = write!(text, "| {}, {} | {} |", record.workload, record.case, record.engine.name);
        for values in columns {
            let percentile = |percent| milliseconds(stats::percentile(values.iter().copied(), percent));
            let _ = match values.len() {
                0 => write!(text, " - |"),
                _ => write!(text, " {} / {} |", percentile(50.0), percentile(99.0)),
            };
        }
        text.push('\n');
    }
    if text.is_empty() {
        return text;
    }
    let names = DEFINITIONS.map(|definition| format!("{} p50 / p99, ms", definition.name)).join(" | ");
    let meanings =
        DEFINITIONS.map(|definition| format!("- {}: {}", definition.name, definition.meaning)).join("\n");
    format!("| workload | engine | {names} |\n|---|---|---|---|---|---|\n{text}\n{meanings}\n")
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}", 1e3 * seconds)
}

/// The conditions, once for all records of a run.
pub fn conditions(records: &[Record]) -> String {
    let Some(first) = records.iter().find(|record| record.is_ours()).or(records.first()) else {
        return String::new();
    };
    let short = |text: &str| text.chars().take(12).collect::<String>();
    let mut text = format!(
        "{} ({} parameters, sha256 {}), weights {}, activations {}, KV {}, {} numerics, {} threads\n{} on {} ({} processors), {}{}\n",
        first.model.name,
        first.model.num_parameters,
        short(&first.model.sha256),
        first.dtypes.weights,
        first.dtypes.activations,
        first.dtypes.kv,
        first.numerics,
        first.threads,
        first.device.name,
        first.host.os,
        first.host.num_cpus,
        source(&first.source.commit),
        if first.source.dirty == Some(true) { " with local changes" } else { "" },
    );
    for record in records {
        let Some(correctness) = &record.correctness else { continue };
        let line = format!("{} {}: {}\n", record.engine.name, record.engine.version, correctness.detail);
        if !text.contains(&line) {
            text += &line;
        }
    }
    text
}

/// A commit, cut, or the version of a released binary.
fn source(commit: &str) -> String {
    let is_version = commit.starts_with("version ");
    if is_version { commit.into() } else { format!("commit {}", commit.chars().take(12).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Series;
    use crate::record::tests::sample;

    #[test]
    fn a_peer_is_shown_with_our_ratio() {
        let mut peer = sample();
        peer.engine.name = "other".into();
        peer.series.insert(names::STEP_SECONDS.into(), Series::seconds([0.3; 4]));
        let table = figures(&[sample(), peer]);
        assert!(
            table.contains("| decode, batch 1, context 128 | nvllm | 150.00 ms a step | 6.7 | 90.0 % "),
            "{table}"
        );
        assert!(
            table.contains("| other | 300.00 ms a step | 3.3 | ") && table.contains("| 2.00x |"),
            "{table}"
        );
    }

    #[test]
    fn ops_of_less_than_a_hundredth_of_a_step_are_left_out() {
        let op = |name: &str, seconds: f64| {
            let mut record = sample();
            record.workload = "ops".into();
            record.case.op = Some(name.into());
            record.series.insert(names::STEP_SECONDS.into(), Series::seconds([seconds; 4]));
            record
        };
        let table = figures(&[op("linear", 0.99), op("rms_norm", 0.011), op("silu", 0.009)]);
        assert!(table.contains("linear") && table.contains("rms_norm"), "{table}");
        assert!(!table.contains("silu"), "{table}");
    }

    #[test]
    fn latencies_stand_beside_their_definitions() {
        assert_eq!(latencies(&[sample()]), "");
        let mut record = sample();
        for (name, values) in [(names::TTFT_SECONDS, [0.1, 0.2]), (names::E2EL_SECONDS, [1.1, 2.2])] {
            record.series.insert(name.into(), Series::seconds(values));
        }
        record.series.insert(names::OUTPUT_TOKENS.into(), Series::whole([11.0, 21.0]));
        record.series.insert(names::ITL_SECONDS.into(), Series::seconds_sorted([0.1]));
        let table = latencies(&[record]);
        assert!(table.contains("| 150.0 / 199.0 | 100.0 / 100.0 | 100.0 / 100.0 |"), "{table}");
        assert!(DEFINITIONS.iter().all(|d| table.contains(d.meaning)));
    }

    #[test]
    fn a_commit_is_cut_and_a_version_is_not() {
        assert_eq!(source("0123456789abcdef0123456789abcdef01234567"), "commit 0123456789ab");
        assert_eq!(source("abc"), "commit abc");
        assert_eq!(source("version 0.1.0"), "version 0.1.0");
    }

    #[test]
    fn conditions_are_said_once() {
        let text = conditions(&[sample(), sample()]);
        assert_eq!(text.matches("nvllm 0.1.0: all").count(), 1, "{text}");
        assert_eq!(conditions(&[]), "");
    }
}
