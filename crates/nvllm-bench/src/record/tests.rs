//! What a record admits, what it says, and what comes back from its file.

use super::*;

/// A record that passes: two groups of two decode steps, each as slow as 90 % of the bandwidth
/// beside it allows.
pub(crate) fn sample() -> Record {
    Record {
        schema: SCHEMA,
        workload: "decode".into(),
        case: Case { batch: Some(1), context: Some(128), ..Case::default() },
        run: "r1".into(),
        time: "2026-01-01T00:00:00Z".into(),
        engine: Engine { name: OURS.into(), version: "0.1.0".into(), command: None, detail: "avx2".into() },
        source: Source { commit: "abc".into(), dirty: Some(false) },
        host: Host {
            cpu: "x".into(),
            num_cpus: 2,
            memory_bytes: 1 << 30,
            os: "linux".into(),
            load_before: Some(0.0),
            clock_mhz: None,
            governor: None,
            power_limit_watts: None,
        },
        device: Device {
            backend: "cpu".into(),
            name: "x, 2 threads".into(),
            memory_bytes: 1 << 30,
            driver: None,
            clocks_mhz: None,
            power_limit_watts: None,
        },
        model: Model { name: "m".into(), num_parameters: 1, sha256: "00".into(), seed: Some(0) },
        dtypes: Dtypes { weights: "bf16".into(), activations: "bf16".into(), kv: "bf16".into() },
        numerics: "invariant".into(),
        threads: 2,
        seed: 0,
        flags: vec!["bench".into()],
        cost: Some(Cost { bytes: 90.0, flops: 10.0 }),
        series: BTreeMap::from([
            (names::STEP_SECONDS.into(), Series::seconds([0.1, 0.1, 0.2, 0.2])),
            (names::READ_BANDWIDTH.into(), Series::whole([1000.0, 500.0])),
            (names::MATMUL_RATE.into(), Series::whole([1000.0, 1000.0])),
        ]),
        values: BTreeMap::new(),
        correctness: Some(Correctness { passed: true, detail: "all".into() }),
    }
}

fn with(name: &str, series: Series) -> Record {
    let mut record = sample();
    record.series.insert(name.into(), series);
    record
}

#[test]
fn a_record_without_a_passed_check_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let failed = Correctness { passed: false, detail: "logits off".into() };
    for (correctness, word) in [(None, "missing"), (Some(failed), "logits off")] {
        let bad = Record { correctness, ..sample() };
        let message = append(&path, &[sample(), bad]).unwrap_err().to_string();
        assert!(message.contains("refused") && message.contains(word), "{message}");
        assert!(!path.exists(), "nothing of a refused run is kept");
    }
}

#[test]
fn a_record_without_sound_measurements_is_refused() {
    let value = |x| Record { values: BTreeMap::from([("x".into(), x)]), ..sample() };
    for bad in [
        with(names::STEP_SECONDS, Series::seconds([0.1, 0.1, 0.2])),
        with(names::STEP_SECONDS, Series::seconds([0.1, f64::NAN])),
        with(names::TTFT_SECONDS, Series::seconds([])),
        value(f64::NAN),
        value(-1.0),
        Record { series: BTreeMap::new(), ..sample() },
        Record { schema: 1, ..sample() },
        Record { run: String::new(), ..sample() },
        Record { model: Model { sha256: String::new(), ..sample().model }, ..sample() },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
    value(0.0).check().unwrap();
}

#[test]
fn a_record_that_is_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    // Hashed numbers do not compress.
    let noise =
        (1..80_000_u64).map(|i| (i.wrapping_mul(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as f64 + 1.0);
    let message = append(&path, &[with("noise", Series::whole(noise))]).unwrap_err().to_string();
    assert!(message.contains("262144 are the most"), "{message}");
}

#[test]
fn records_are_read_back_by_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b/a.jsonl");
    let long = Series::seconds((1..100).map(|i| f64::from(i) * 1e-3));
    let other = Record { run: "r2".into(), ..with("long", long) };
    append(&path, &[sample()]).unwrap();
    append(&path, std::slice::from_ref(&other)).unwrap();
    assert_eq!(read_run(&path, "r2").unwrap(), [other]);
    assert_eq!(read(&path).unwrap().len(), 2);
    assert_eq!(newest_run(&path).unwrap().as_deref(), Some("r2"));
    std::fs::write(&path, "{}\n").unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("a.jsonl:1"));
}

#[test]
fn a_record_edited_into_a_failure_is_refused_by_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    append(&path, &[sample()]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap().replace("\"passed\":true", "\"passed\":false");
    std::fs::write(&path, text).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("failed"));
}

#[test]
fn the_share_is_the_median_over_pairs() {
    // Both groups stream 90 bytes at 90 % of the rate of the read beside them, whatever the machine
    // did in between.
    assert!((sample().share().unwrap() - 0.9).abs() < 1e-9);
    let slow = with(names::READ_BANDWIDTH, Series::whole([1000.0, 1000.0]));
    assert!((slow.share().unwrap() - 0.675).abs() < 1e-9, "the middle of 0.9 and 0.45");
    assert_eq!(sample().is_memory_bound(), Some(true));
}

#[test]
fn arithmetic_bounds_where_it_takes_longer_than_memory() {
    let record = Record { cost: Some(Cost { bytes: 1.0, flops: 50.0 }), ..sample() };
    assert!((record.share().unwrap() - 0.375).abs() < 1e-9, "the middle of 0.5 and 0.25");
    assert_eq!(record.is_memory_bound(), Some(false));
    assert_eq!(Record { cost: None, ..sample() }.share(), None);
}

#[test]
fn records_of_one_case_compare() {
    let peer = Record { engine: Engine { name: "other".into(), ..sample().engine }, ..sample() };
    assert!(sample().compares_to(&peer) && !peer.is_ours());
    for other in [
        Record { run: "r2".into(), ..peer.clone() },
        Record { workload: "prefill".into(), ..peer.clone() },
        Record { case: Case::default(), ..peer.clone() },
        Record { model: Model { sha256: "01".into(), ..peer.model.clone() }, ..peer },
    ] {
        assert!(!sample().compares_to(&other), "{other:?}");
    }
    assert_eq!(sample().case.to_string(), "batch 1, context 128");
}
