//! `verify` on a backend with planted faults: it names exactly the rows that a fault shows in.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use nvllm_core::{
    Activations, Executable, Numerics, Reference, Result, SlotId, Source, Step, StepOutput, Ticket,
};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::verify::{Outcome, Progress, VerifyOptions, VerifyReport, verify};
use nvllm_engine::{EngineError, LoadOptions, Model};

#[allow(dead_code)]
#[path = "serving/support.rs"]
mod support;

use support::{Hooks, Plain, backend};

fn model() -> Arc<Model> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/a_qwen3_tied_gqa");
    Arc::new(Model::open(&ModelFiles::in_directory(&dir).unwrap()).unwrap())
}

fn options() -> VerifyOptions {
    let load = LoadOptions { activations: Some(Activations::F32), ..LoadOptions::default() };
    VerifyOptions { load, quick: true, ..VerifyOptions::default() }
}

fn report_with(hooks: impl Hooks + Sync, options: &VerifyOptions) -> nvllm_engine::Result<VerifyReport> {
    verify(&model(), &Arc::new(move || Ok(backend(hooks.clone()))), options, &mut |_| {})
}

fn report(hooks: impl Hooks + Sync) -> VerifyReport {
    report_with(hooks, &options()).unwrap()
}

/// Moves the log-probabilities of a sequence by the smallest step that f32 has, from the step on in
/// which `shows` says so of the step and the sequence's index in it.
#[derive(Clone)]
struct Planted {
    shows: fn(&Step, usize) -> bool,
    /// Slots whose sequences are moved.
    slots: HashSet<SlotId>,
    /// Output rows that are moved, of the steps in flight.
    in_flight: VecDeque<Vec<bool>>,
}

impl Planted {
    fn new(shows: fn(&Step, usize) -> bool) -> Self {
        Self { shows, slots: HashSet::new(), in_flight: VecDeque::new() }
    }
}

impl Hooks for Planted {
    fn submit(&mut self, inner: &mut dyn Executable, step: &Step) -> Result<Ticket> {
        let mut moved = Vec::new();
        for (i, seq) in step.seqs.iter().enumerate() {
            if begins(step, i) {
                self.slots.remove(&seq.slot);
            }
            if (self.shows)(step, i) {
                self.slots.insert(seq.slot);
            }
            moved.extend(vec![self.slots.contains(&seq.slot); seq.outputs.len()]);
        }
        self.in_flight.push_back(moved);
        inner.submit(step)
    }

    fn collect(&mut self, inner: &mut dyn Executable, ticket: Ticket) -> Result<StepOutput> {
        let mut output = inner.collect(ticket)?;
        let moved = self.in_flight.pop_front().unwrap();
        for (row, _) in output.rows.iter_mut().zip(moved).filter(|(_, moved)| *moved) {
            if let Some(scores) = &mut row.logprobs {
                scores.logprob = f32::from_bits(scores.logprob.to_bits() + 1);
            }
        }
        Ok(output)
    }
}

/// Whether a sequence takes its slot in this step.
fn begins(step: &Step, i: usize) -> bool {
    step.resets.iter().any(|reset| reset.slot == step.seqs[i].slot)
}

#[test]
fn a_backend_without_faults_is_equal_and_every_variation_is_shown() {
    let report = report(Plain);
    assert!(report.is_equal(), "{report}");
    let unseen: Vec<_> =
        report.rows.iter().filter(|row| row.evidence.is_empty()).map(|row| &row.varied).collect();
    assert_eq!(unseen, ["blocks of 3"]);
    for row in &report.rows {
        assert!(row.requests > 0 && row.tokens > 0, "{report}");
    }
}

#[test]
fn a_planted_difference_is_named_in_its_rows_and_no_others() {
    type Shows = fn(&Step, usize) -> bool;
    let cases: [(Shows, &[&str]); 4] = [
        (
            |step, _| step.seqs.len() > 1,
            &[
                "all at once",
                "all at once, in another order",
                "several choices",
                "companions come and go",
                "preemption",
                "all of these",
            ],
        ),
        (
            |step, i| begins(step, i) && step.seqs[i].kv_start != Source::Host(0),
            &["prefix cache", "several choices", "companions come and go"],
        ),
        (
            |step, i| {
                step.resets.iter().any(|reset| reset.slot == step.seqs[i].slot && !reset.output.is_empty())
            },
            &["preemption", "all of these"],
        ),
        (|step, i| step.seqs[i].tokens.contains(&Source::Slot), &["3 steps in flight", "all of these"]),
    ];
    for (shows, expected) in cases {
        let report = report(Planted::new(shows));
        let differs = |outcome: &Outcome| matches!(outcome, Outcome::Differs(_));
        let mut found: Vec<_> =
            report.rows.iter().filter(|row| differs(&row.outcome)).map(|row| row.varied.as_str()).collect();
        // With everything varied it is a companion that takes over a prefix, or a request.
        found.retain(|row| expected.contains(row) || *row != "all of these");
        assert_eq!(found, expected, "{report}");
        assert!(!report.is_equal());
        let others = report.rows.iter().filter(|row| !differs(&row.outcome));
        assert!(
            others.clone().count() > 0 && others.clone().all(|row| row.outcome == Outcome::Equal),
            "{report}"
        );
    }
}

#[test]
fn what_did_not_happen_proves_nothing() {
    let report = report_with(Plain, &VerifyOptions { num_requests: Some(1), ..options() }).unwrap();
    let unproven = |varied: &str| {
        let row = report.rows.iter().find(|row| row.varied == varied).expect(varied);
        match &row.outcome {
            Outcome::Unproven { reason } => reason.clone(),
            other => panic!("{varied}: {other:?}"),
        }
    };
    assert_eq!(unproven("all at once"), "no two requests shared a step");
    assert_eq!(unproven("several choices"), "nothing was taken over");
    assert_eq!(unproven("preemption"), "nothing was preempted");
    assert!(!report.is_equal(), "{report}");
}

#[test]
fn steps_that_the_baseline_takes_itself_are_no_variation() {
    let load = LoadOptions { max_num_batched_tokens: Some(5), ..options().load };
    let report = report_with(Plain, &VerifyOptions { load, ..options() }).unwrap();
    let varied: Vec<_> = report.rows.iter().map(|row| row.varied.as_str()).collect();
    assert!(varied.contains(&"blocks of 3"), "{report}");
    assert!(!varied.iter().any(|varied| varied.starts_with("steps of")), "{report}");
}

#[test]
fn a_variation_that_cannot_run_is_a_row() {
    #[derive(Clone)]
    struct Refusing;
    impl Hooks for Refusing {
        fn submit(&mut self, inner: &mut dyn Executable, step: &Step) -> Result<Ticket> {
            if step.seqs.len() > 1 {
                return Err(nvllm_core::CoreError::step(step.id, "has company"));
            }
            inner.submit(step)
        }
    }
    let report = report(Refusing);
    let row = &report.rows[0];
    assert!(matches!(&row.outcome, Outcome::Failed { reason } if reason.contains("has company")), "{report}");
    assert_eq!(report.rows.iter().find(|row| row.varied == "steps of 5").unwrap().outcome, Outcome::Equal);
}

#[test]
fn what_cannot_be_verified_is_refused() {
    let refusal = |options: &VerifyOptions| match report_with(Plain, options) {
        Err(error @ EngineError::Option { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let with = |load: LoadOptions| VerifyOptions { load, ..options() };
    let fast = with(LoadOptions { numerics: Numerics::Fast, ..options().load });
    assert!(refusal(&fast).contains("numerics is fast, which does not promise equal results"));
    let short = with(LoadOptions { max_model_len: Some(63), ..options().load });
    assert!(refusal(&short).contains("max-model-len is 63; verify needs 64 or more"));
}

#[test]
fn the_shortest_context_will_do_and_progress_is_told_before_each_row() {
    let load = LoadOptions { max_model_len: Some(64), ..options().load };
    let mut told = Vec::new();
    let mut progress = |progress: Progress<'_>| told.push((progress.done, progress.running.to_owned()));
    let backend = Arc::new(|| Ok(Box::new(Reference::default()) as Box<dyn nvllm_core::Backend>));
    let report = verify(&model(), &backend, &VerifyOptions { load, ..options() }, &mut progress).unwrap();
    assert!(report.is_equal(), "{report}");
    let rows = report.rows.iter().map(|row| row.varied.clone());
    let expected: Vec<_> = std::iter::once("each request alone".to_owned()).chain(rows).enumerate().collect();
    assert_eq!(told, expected);
}
