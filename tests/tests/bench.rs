//! `nvllm-bench` end to end: its gate on backends that are right and wrong, and every workload that
//! needs no program, small.

use std::sync::Arc;

use nvllm_bench::record::{self, names};
use nvllm_bench::workload::{self, REGISTRY};
use nvllm_bench::{
    BenchError, Display, Factory, Gate, Record, Session, Settings, Sizes, Subject, files, table,
};
use nvllm_core::{Activations, Backend, KvFormat, Numerics, Reference};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{LoadOptions, Model};
use nvllm_tests::model_dir;

fn open() -> nvllm_bench::Result<Model> {
    Ok(Model::open(&ModelFiles::in_directory(&model_dir())?)?)
}

fn gate() -> Gate {
    Gate { before: None, demo: Box::new(open) }
}

fn cpu() -> Factory {
    Arc::new(|| Ok(Box::new(nvllm_tests::cpu()) as Box<dyn Backend>))
}

/// The reference with every norm off by 2 %.
fn wrong() -> Factory {
    Arc::new(|| {
        let scaled = Reference::observed(Arc::new(|_, node, outputs: &mut [Vec<f32>]| {
            if node.op.stem() == "rms_norm" {
                outputs.iter_mut().flatten().for_each(|x| *x *= 1.02);
            }
        }));
        Ok(Box::new(scaled) as Box<dyn Backend>)
    })
}

fn settings() -> Settings {
    Settings {
        quick: true,
        activations: Activations::Bf16,
        kv_format: KvFormat::Bf16,
        numerics: Numerics::Invariant,
        exact_head: false,
        step_tokens: None,
        threads: nvllm_cpu::default_threads(),
        scale: Some(0.02),
        case_seconds: 20.0,
        flags: vec!["bench".into()],
        source: record::Source { commit: "test".into(), dirty: None },
        version: "test".into(),
        binary: None,
        sizes: Sizes::default(),
        peers: Vec::new(),
        peer_device: String::new(),
        scratch: std::env::temp_dir(),
    }
}

fn subject() -> Subject {
    let weights = files::weight_files(&model_dir()).unwrap();
    Subject {
        name: "nvllm-tiny".into(),
        sha256: files::sha256_files(&weights).unwrap(),
        dir: Some(model_dir()),
        seed: None,
        open: Box::new(open),
    }
}

#[test]
fn a_wrong_backend_measures_nothing() {
    let error = Session::start(subject(), wrong(), &gate(), settings(), Display::silent()).err().unwrap();
    assert!(matches!(error, BenchError::Incorrect { .. }), "{error}");
    assert!(error.to_string().contains("greedy runs"), "{error}");
}

/// The records but for the last digits of measured values, which JSON's reader may miss by one.
fn rounded(records: &[Record]) -> Vec<Record> {
    let mut records = records.to_vec();
    for value in records.iter_mut().flat_map(|record| record.values.values_mut()) {
        *value = format!("{value:.12e}").parse().unwrap();
    }
    records
}

#[test]
fn every_workload_leaves_records_or_says_why_not() {
    let mut bench = Session::start(subject(), cpu(), &gate(), settings(), Display::silent()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.jsonl");
    bench.run(&REGISTRY, &path).unwrap();
    let records = record::read(&path).unwrap();
    assert_eq!(rounded(&records), rounded(bench.records()), "what is written is read");
    for workload in REGISTRY {
        let made = records.iter().any(|record| record.workload == workload.name());
        let skipped = bench.skipped().iter().any(|line| line.starts_with(workload.name()));
        assert!(made || skipped, "{}: {:?}", workload.name(), bench.skipped());
        // These need the real program, or a device.
        let skips = ["startup", "busy", "inputs"].contains(&workload.name());
        assert_eq!(made, !skips, "{:?}", bench.skipped());
    }
    for record in &records {
        let figures = workload::figures(record);
        assert!(
            !figures.headline.contains("NaN") && !figures.headline.is_empty(),
            "{}: {figures:?}",
            record.title()
        );
        if record.series.contains_key(names::STEP_SECONDS) {
            assert!(record.share().is_some_and(|share| share > 0.0), "{}", record.title());
        }
    }
    let set = records.iter().find(|record| record.workload == "nano").unwrap();
    let num = set.case.num_requests.unwrap();
    assert_eq!(set.series(names::TTFT_SECONDS).len(), num);
    let outputs: f64 = set.series(names::OUTPUT_TOKENS).iter().sum();
    assert_eq!(set.series(names::ITL_SECONDS).len(), outputs as usize - num);
    assert!(table::latencies(&records).contains("TPOT"));
    let memory = records.iter().find(|record| record.workload == "memory").unwrap();
    assert!(memory.values[names::PLANNED_BYTES] > memory.values[names::WEIGHT_BYTES]);
}

#[test]
fn a_profile_times_every_op_of_every_step() {
    let mut bench = Session::start(subject(), cpu(), &gate(), settings(), Display::silent()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace.json");
    bench.profile(&path).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |cat: &str| events.iter().filter(|event| event["cat"] == cat).collect::<Vec<_>>();
    let (host, ops) = (of("host"), of("op"));
    let model = open().unwrap();
    let limits = LoadOptions::default().limits(&model, &nvllm_tests::cpu().info()).unwrap();
    let plan = nvllm_tests::cpu().plan(&model.spec, model.source.as_ref(), &limits).unwrap();
    let program = &plan.spec.programs[0];
    let num_steps = host.len() / 2;
    assert_eq!(num_steps, 9, "a prompt and eight tokens");
    // Every op, and the sampler.
    let names: Vec<_> = program.nodes.iter().map(|node| node.op.stem()).chain(["sample"]).collect();
    assert_eq!(ops.len(), num_steps * names.len());
    let end = |event: &serde_json::Value| event["ts"].as_f64().unwrap() + event["dur"].as_f64().unwrap();
    for (step, timed) in ops.chunks(names.len()).enumerate() {
        let submit = host[2 * step];
        for (name, event) in names.iter().zip(timed) {
            assert_eq!(event["name"], *name);
            assert!(
                event["ts"].as_f64() >= submit["ts"].as_f64() && end(event) <= end(submit) + 1.0,
                "{event}"
            );
        }
        assert!(timed.windows(2).all(|pair| end(pair[0]) <= pair[1]["ts"].as_f64().unwrap() + 1e-3));
    }
    let head = ops.iter().rev().find(|event| event["name"] == "linear").unwrap();
    assert!(head["args"]["share_of_limit"].as_f64().is_some_and(|share| share > 0.0), "{head}");
    let named = head["args"]["weights"][0].as_str().unwrap();
    assert!(program.weights.iter().any(|decl| decl.name == named), "{named}");
}
