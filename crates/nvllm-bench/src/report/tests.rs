//! Blocks and charts of a small set of records.

use super::*;
use crate::Series;
use crate::record::tests::sample;
use crate::record::{Case, Correctness, Cost, Engine, names};

const RUN: &str = "2026-01-02T03:04:05Z-7";

/// A record of a step that moves 600 MB of weights and 10 a sequence, on a machine that reads 10 GB
/// in a second and computes 400 times as many operations, at `share` of what that allows.
fn record(engine: &str, workload: &str, case: Case, share: f64) -> Record {
    let rows = case.prompt_len.or(case.batch).unwrap_or(1) as f64;
    let cost = Cost { bytes: 6e8 + 1e7 * rows, flops: 5e9 * rows };
    let seconds = (cost.bytes / 1e10).max(cost.flops / 4e12) / share;
    let of_series = [
        (names::STEP_SECONDS, Series::seconds([seconds, seconds * 1.01])),
        (names::READ_BANDWIDTH, Series::whole([1e10, 1e10])),
        (names::MATMUL_RATE, Series::whole([4e12, 4e12])),
    ];
    let command = (engine != crate::record::OURS).then(|| format!("python {engine}.py --threads 2"));
    Record {
        workload: workload.into(),
        case,
        run: RUN.into(),
        engine: Engine {
            name: engine.into(),
            command,
            detail: "SSE3 = 1 | AVX = 1".into(),
            ..sample().engine
        },
        cost: Some(cost),
        series: of_series.map(|(name, series)| (name.into(), series)).into(),
        ..sample()
    }
}

fn decode(engine: &str, batch: usize, context: usize, share: f64) -> Record {
    let case = Case { batch: Some(batch), context: Some(context), ..Case::default() };
    record(engine, "decode", case, share)
}

/// Requests of three tokens.
fn nano(engine: &str, seconds: f64) -> Record {
    let case = Case { num_requests: Some(2), scale_percent: Some(5), ..Case::default() };
    let of_series = [
        (names::RUN_SECONDS, Series::seconds([seconds])),
        (names::TTFT_SECONDS, Series::seconds([0.1, 0.2])),
        (names::E2EL_SECONDS, Series::seconds([seconds / 2.0, seconds])),
        (names::OUTPUT_TOKENS, Series::whole([3.0, 3.0])),
    ];
    let series = of_series.map(|(name, series)| (name.into(), series)).into();
    Record { series, cost: None, ..record(engine, "nano", case, 1.0) }
}

fn records() -> Vec<Record> {
    let mut all = Vec::new();
    for context in [128, 1024] {
        for batch in [1, 4, 16, 64] {
            let less = batch as f64 / 500.0;
            all.push(decode("nvllm", batch, context, 0.92 - less));
            all.push(decode("llama.cpp", batch, context, 0.85 - 2.0 * less));
            if context == 128 {
                all.push(decode("transformers", batch, context, 0.3 + less));
            }
        }
    }
    for len in [128, 1024] {
        let case = Case { batch: Some(1), prompt_len: Some(len), ..Case::default() };
        all.push(record("nvllm", "prefill", case.clone(), 0.8));
        all.push(record("llama.cpp", "prefill", case, 1.04));
    }
    all.extend([nano("nvllm", 1.5), nano("llama.cpp", 3.0)]);
    all
}

fn report(records: &[Record]) -> Report {
    let mut report = Report::default();
    report.add("cpu", records).unwrap();
    report
}

#[test]
fn a_summary_is_made_from_records() {
    insta::assert_snapshot!(report(&records()).block("cpu", "docs/charts").unwrap());
}

#[test]
fn everything_is_made_from_records() {
    insta::assert_snapshot!(report(&records()).block(EVERYTHING, "charts").unwrap());
}

#[test]
fn charts_are_made_from_records() {
    let charts = report(&records()).charts();
    assert_eq!(charts.len(), 2);
    for chart in charts {
        insta::assert_snapshot!(chart.name.clone(), chart.svg);
    }
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let (one, two) = (report(&records()), report(&records()));
    assert_eq!(one.charts(), two.charts());
    for name in one.blocks() {
        assert_eq!(one.block(name, "x").unwrap(), two.block(name, "x").unwrap());
    }
}

#[test]
fn no_record_is_no_figure() {
    let empty = report(&[]);
    assert_eq!(empty.charts(), []);
    for name in ["cpu", EVERYTHING] {
        let text = empty.block(name, "charts").unwrap();
        assert!(text.starts_with("Nothing is on record"), "{text}");
    }
    assert!(empty.block("logits", "charts").unwrap().starts_with("Nothing is on record"));
    let message = empty.block("cuda", "charts").unwrap_err().to_string();
    assert!(message.contains("`cuda`") && message.contains("cpu, everything"), "{message}");
}

#[test]
fn a_record_without_its_correctness_check_is_refused() {
    let failed = Correctness { passed: false, detail: "logits off".into() };
    for correctness in [None, Some(failed)] {
        let bad = Record { correctness, ..decode("nvllm", 1, 128, 0.9) };
        assert!(Report::default().add("cpu", std::slice::from_ref(&bad)).is_err());
        let dir = tempfile::tempdir().unwrap();
        let line = serde_json::to_string(&bad).unwrap() + "\n";
        std::fs::write(dir.path().join("cpu.jsonl"), line).unwrap();
        let message = Report::read(dir.path()).unwrap_err().to_string();
        assert!(message.contains("cpu.jsonl:1") && message.contains("correctness check"), "{message}");
    }
}

#[test]
fn files_are_read_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    for stem in ["cuda", "cpu"] {
        record::append(&dir.path().join(stem).with_extension("jsonl"), &records()).unwrap();
    }
    std::fs::write(dir.path().join("notes.md"), "not a record\n").unwrap();
    let report = Report::read(dir.path()).unwrap();
    assert_eq!(report.blocks(), ["cpu", "cuda", EVERYTHING, "formats", "logits", "quality", "server"]);
    assert_eq!(report.charts().len(), 4);
    assert!(Report::read(&dir.path().join("none")).is_err());
}

/// The record as part of another run.
fn of_run(record: Record, run: &str, flags: &[&str]) -> Record {
    Record { run: run.into(), flags: flags.iter().map(|flag| (*flag).into()).collect(), ..record }
}

#[test]
fn each_workload_is_shown_by_the_newest_run_that_can_be_quoted() {
    let step = |run, flags: &[&str], share| of_run(decode("nvllm", 1, 128, share), run, flags);
    let set = |run| of_run(nano("nvllm", 2.0), run, &[]);
    let all =
        vec![set("r1"), step("r1", &[], 0.5), step("r2", &[], 0.6), step("r3", &["bench", "--quick"], 0.7)];
    let section = &section::sections("cpu", &all)[0];
    let shown: Vec<_> = section.records.iter().map(|r| (r.workload.as_str(), r.run.as_str())).collect();
    assert_eq!(shown, [("decode", "r2"), ("nano", "r1")]);
    let quick = report(&all[3..]).block("cpu", "charts").unwrap();
    assert!(quick.contains("run r3: decode; a quick look"), "{quick}");
}

#[test]
fn other_weights_and_devices_are_sections_of_their_own() {
    let mut other = of_run(decode("nvllm", 1, 128, 0.5), "r1", &[]);
    other.model.sha256 = "11".into();
    other.model.name = "other".into();
    let report = report(&[vec![other], records()].concat());
    let names: Vec<_> = report.charts().into_iter().map(|chart| chart.name).collect();
    assert_eq!(names, ["cpu-roofline.svg", "cpu-throughput.svg", "cpu-2-roofline.svg"]);
    assert!(!report.block("cpu", "charts").unwrap().contains("other ("));
    assert!(report.block(EVERYTHING, "charts").unwrap().contains("## other on x"));
}

#[test]
fn promises_on_sums_are_shown_apart() {
    let mut fast = of_run(decode("nvllm", 1, 128, 0.95), "r9", &[]);
    fast.numerics = "fast".into();
    let report = report(&[records(), vec![fast]].concat());
    let summary = report.block("cpu", "charts").unwrap();
    assert!(summary.contains("invariant numerics") && !summary.contains("r9"), "{summary}");
    let all = report.block(EVERYTHING, "charts").unwrap();
    assert!(all.contains("## m on x, 2 threads, fast numerics"), "{all}");
}

#[test]
fn what_no_record_tells_is_not_drawn() {
    let mut single = decode("nvllm", 1, 128, 0.5);
    assert_eq!(report(std::slice::from_ref(&single)).charts().len(), 1, "one batch size is no curve");
    single.series.remove(names::READ_BANDWIDTH);
    assert_eq!(report(&[single]).charts(), []);
}

#[test]
fn charts_have_colours_for_both_kinds_of_pages() {
    for chart in report(&records()).charts() {
        assert!(chart.svg.contains("prefers-color-scheme: dark"));
        for colour in chart.svg.split('"').filter(|part| part.len() == 7 && part.starts_with('#')) {
            assert!(chart.svg.contains(&format!("[fill=\"{colour}\"]")), "{colour} has no counterpart");
        }
    }
}
