//! Lines and a roofline of a few records with round figures.

use super::*;
use crate::record::tests::sample;
use crate::record::{Case, Cost, Engine, Record, Series, names};

/// A step of `seconds` on a machine that reads 1 GB and computes 100 GFLOP in a second; a sequence
/// costs as much time of either kind at a batch of 10.
fn step(engine: &str, batch: usize, seconds: f64) -> Record {
    let of_series = [
        (names::STEP_SECONDS, Series::seconds([seconds, 0.9 * seconds, 1.1 * seconds])),
        (names::READ_BANDWIDTH, Series::whole([1e9])),
        (names::MATMUL_RATE, Series::whole([1e11])),
    ];
    Record {
        workload: "decode".into(),
        case: Case { batch: Some(batch), context: Some(CONTEXT), ..Case::default() },
        engine: Engine { name: engine.into(), ..sample().engine },
        cost: Some(Cost { bytes: 1e8, flops: 1e9 * batch as f64 }),
        series: of_series.map(|(name, series)| (name.into(), series)).into(),
        ..sample()
    }
}

/// As a peer has it: times and nothing else.
fn peer(batch: usize, seconds: f64, numerics: &str) -> Record {
    let mut record = Record { cost: None, numerics: numerics.into(), ..step("vllm", batch, seconds) };
    record.series.retain(|name, _| name == names::STEP_SECONDS);
    record
}

/// A folder with a file of these records by its name.
fn folder(files: &[(&str, Vec<Record>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (file, records) in files {
        crate::record::append(&dir.path().join(format!("{file}.jsonl")), records).unwrap();
    }
    dir
}

/// `before` in two runs, `after` beside vLLM under two kinds of numerics.
fn both() -> tempfile::TempDir {
    let ours =
        |seconds: [f64; 3]| [1, 8, 64].into_iter().zip(seconds).map(|(batch, s)| step("nvllm", batch, s));
    let before = ours([0.2, 0.2, 2.0]).chain(ours([0.3, 0.3, 3.0])).collect();
    let peers = [peer(64, 1.0, "its own"), peer(1, 0.16, "its own"), peer(1, 0.2, "batch-invariant")];
    folder(&[("p/before", before), ("p/after", ours([0.125, 0.125, 0.8]).chain(peers).collect())])
}

const MARKER: &str = "decode x; before = p/before; nvllm = p/after; vLLM = p/after, vllm, its own; \
    vLLM batch-invariant = p/after, vllm, batch-invariant; other = p/after, other";

fn message(dir: &tempfile::TempDir, marker: &str) -> String {
    let message = block(dir.path(), marker, "charts").unwrap_err().to_string();
    assert_eq!(chart(dir.path(), marker).unwrap_err().to_string(), message);
    message
}

fn assert_points(got: &[(usize, f64)], wanted: &[(usize, f64)]) {
    let close = |((a, x), (b, y)): (&(usize, f64), &(usize, f64))| a == b && (x / y - 1.0).abs() < 1e-9;
    assert!(got.len() == wanted.len() && got.iter().zip(wanted).all(close), "{got:?} for {wanted:?}");
}

#[test]
fn points_are_the_batch_by_the_median_of_its_steps_and_runs() {
    let dir = both();
    let curves = Curves::read(dir.path(), &Marker::parse(MARKER).unwrap()).unwrap();
    // A peer that is not on record has no line.
    let labels: Vec<_> = curves.lines.iter().map(|line| line.label.as_str()).collect();
    assert_eq!(labels, ["before", "nvllm", "vLLM", "vLLM batch-invariant"]);
    assert_points(&curves.lines[0].points, &[(1, 4.0), (8, 32.0), (64, 25.6)]);
    assert_points(&curves.lines[1].points, &[(1, 8.0), (8, 64.0), (64, 80.0)]);
    assert_points(&curves.lines[2].points, &[(1, 6.25), (64, 64.0)]);
    assert_points(&curves.lines[3].points, &[(1, 5.0)]);
    assert_eq!(curves.batches(), [1, 8, 64]);
}

#[test]
fn the_roofline_is_bound_by_bytes_and_then_by_products() {
    let dir = both();
    let curves = Curves::read(dir.path(), &Marker::parse(MARKER).unwrap()).unwrap();
    assert_points(&curves.roofline, &[(1, 10.0), (8, 80.0), (64, 100.0)]);
}

#[test]
fn a_block_says_what_it_shows_and_holds_the_points() {
    insta::assert_snapshot!(block(both().path(), MARKER, "docs/charts").unwrap());
}

#[test]
fn the_same_records_give_the_same_chart() {
    let [one, two] = [both(), both()].map(|dir| chart(dir.path(), MARKER).unwrap().unwrap());
    assert_eq!(one, two);
    assert_eq!(one.name, "decode-x.svg");
    assert!(one.svg.contains("roofline") && one.svg.contains("vLLM batch-invariant"), "{}", one.svg);
    assert!(!one.svg.contains("other"), "a peer that is not on record is in no legend");
    insta::assert_snapshot!("decode-x.svg", one.svg);
}

#[test]
fn records_that_are_missing_or_of_something_else_are_refused() {
    let dir = both();
    let gone = message(&dir, "decode x; before = p/gone");
    assert!(gone.starts_with("cannot read ") && gone.contains("p/gone.jsonl"), "{gone}");

    let mut other = step("nvllm", 1, 0.1);
    other.case.context = Some(1024);
    let mut prefill = step("nvllm", 1, 0.1);
    prefill.workload = "prefill".into();
    let empty = folder(&[("a", vec![other, prefill])]);
    let none = message(&empty, "decode x; before = a");
    assert_eq!(none, "a: no record of decode at context 128 has step_seconds");

    let peers = folder(&[("a", vec![peer(1, 0.1, "its own")])]);
    assert_eq!(message(&peers, "decode x; now = a"), "a: it holds no records for the line `now`");
    assert!(message(&peers, "decode x; vLLM = a, vllm").contains("no records of nvllm"));
}

type Change = fn(&mut Record);

#[test]
fn a_line_or_chart_that_would_mix_is_refused() {
    let mixed = message(&both(), "decode x; nvllm = p/after; vLLM = p/after, vllm");
    assert!(mixed.contains("`vLLM` would mix numerics: its own, batch-invariant"), "{mixed}");
    let changes: [(&str, Change); 3] = [
        ("numbers of parameters", |record| record.model.num_parameters += 1),
        ("devices", |record| record.device.name += " other"),
        ("dtypes", |record| record.dtypes.weights = "int8 channel".into()),
    ];
    for (what, change) in changes {
        let mut other = step("nvllm", 8, 0.1);
        change(&mut other);
        let dir = folder(&[("a", vec![step("nvllm", 1, 0.1)]), ("b", vec![other])]);
        let mixed = message(&dir, "decode x; before = a; now = b");
        assert!(mixed.starts_with(&format!("x: its records mix {what}: ")), "{mixed}");
    }
}

#[test]
fn without_the_rates_there_is_no_roofline() {
    let mut record = step("nvllm", 1, 0.1);
    record.series.remove(names::MATMUL_RATE);
    let message = message(&folder(&[("a", vec![record])]), "decode x; now = a");
    assert!(message.contains("matmul_rate") && message.contains("roofline"), "{message}");
}
