//! The proof that company changes nothing, run on a user's machine for a user's model and backend.
//!
//! A fixed set of requests runs alone first, one after another, each prompt in one step, nothing
//! reused and one step in flight: the baseline. Then the same requests run under one variation
//! after another: other chunks, blocks and steps in flight, a prefix cache, other requests beside
//! them, several choices of a prompt, a KV cache that is too small. Tokens and log-probabilities
//! have to be the same, bit for bit. A variation also has to show that it happened: a run that was
//! to preempt and preempted nothing proves nothing, and its row says so.
//!
//! Requests are token ids drawn by a seed, so that a model without a tokenizer can be verified, and
//! have no stop tokens, so that a run takes the same time for any model.
//!
//! Deliberately absent: whether the answers are right. That is for the conformance suite and the
//! golden tests; here a backend is compared with itself.

mod answer;
mod cases;
mod compare;
mod options;
mod proof;
mod report;
mod run;
mod variation;

use std::sync::Arc;
use std::time::Instant;

use nvllm_core::{Backend, Numerics};

use self::cases::Cases;
pub use self::compare::Difference;
pub use self::options::VerifyOptions;
use self::proof::Evidence;
pub use self::report::{Outcome, Row, VerifyReport};
use self::run::{Baseline, Runner};
use self::variation::{Setup, Variation};
use crate::{Engine, EngineError, LoadOptions, Model, Result};

/// How far a verification has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Rows that are complete.
    pub done: usize,
    /// All rows, and the baseline.
    pub total: usize,
    /// What runs now.
    pub running: &'a str,
}

/// Verifies `model` on the backend that `backend` makes, once for each way of loading it.
///
/// A variation that cannot run, or differs, is a row of the report.
///
/// # Errors
/// If the options promise no equality ([`Numerics::Fast`]), the context is too short for the
/// requests, or the model cannot be loaded or fails alone.
pub fn verify<B>(
    model: &Arc<Model>,
    backend: &Arc<B>,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<VerifyReport>
where
    B: Fn() -> Result<Box<dyn Backend>> + Send + Sync + 'static,
{
    if options.load.numerics == Numerics::Fast {
        let problem = "is fast, which does not promise equal results: use invariant".into();
        return Err(EngineError::Option { option: "numerics", problem });
    }
    let start = |load: &LoadOptions| {
        let backend = Arc::clone(backend);
        Engine::builder(Arc::clone(model), move || backend()).options(load.clone()).start()
    };
    let cases = Cases::draw(model, options)?;
    let alone = variation::alone(&cases, options);
    let mut setups = variation::all(&alone, options);
    let num = |setups: &[Setup]| 1 + setups.iter().map(|setup| setup.variations.len()).sum::<usize>();
    progress(Progress { done: 0, total: num(&setups), running: "each request alone" });
    let engine = start(&alone)?;
    let info = engine.info()?.clone();
    setups.retain(|setup| setup.differs(&info.limits));
    let total = num(&setups);
    let baseline = Baseline::make(&engine, &cases)?;
    let mut engine = Some(engine);
    let mut rows = Vec::with_capacity(total);
    for setup in &setups {
        // The first setup is the baseline's. One model at a time: two may not fit.
        let engine = match engine.take() {
            Some(engine) => Ok(engine),
            None => setup.load(model, &info.limits).and_then(|load| start(&load)),
        };
        for variation in &setup.variations {
            progress(Progress { done: 1 + rows.len(), total, running: &variation.varied });
            rows.push(match &engine {
                Ok(engine) => row(variation, &Runner { engine, cases: &cases, baseline: &baseline }),
                Err(error) => failed(variation, error.to_string()),
            });
        }
    }
    Ok(VerifyReport {
        model: model.name.clone(),
        backend: info.backend.name,
        device: info.backend.device,
        requests: cases.requests.len(),
        tokens: baseline.num_tokens(),
        context: cases.context,
        seed: options.seed,
        rows,
    })
}

fn failed(variation: &Variation, reason: String) -> Row {
    Row {
        varied: variation.varied.clone(),
        requests: 0,
        tokens: 0,
        outcome: Outcome::Failed { reason },
        evidence: String::new(),
        seconds: 0.0,
    }
}

/// Runs a variation and compares it.
fn row(variation: &Variation, runner: &Runner<'_>) -> Row {
    let baseline = runner.baseline;
    let begun = Instant::now();
    let before = runner.engine.stats();
    let answers = match runner.run(variation.submission) {
        Ok(answers) => answers,
        Err(error) => return failed(variation, error.to_string()),
    };
    let seconds = begun.elapsed().as_secs_f64();
    let after = runner.engine.stats();
    let evidence = Evidence {
        before,
        after,
        baseline_steps: baseline.num_steps,
        steps_with_stops: baseline.steps_with_stops(),
    };
    let (mut first, mut tokens) = (None, 0);
    for answer in &answers {
        let expected = baseline.of(answer.request, answer.choice);
        tokens += answer::num_tokens(&answer.generated);
        if first.is_none() {
            first = compare::first_difference(answer, expected);
        }
    }
    let proved = variation.proof.check(&evidence);
    let (outcome, evidence) = match (first, proved) {
        (Some(difference), proved) => (Outcome::Differs(difference), proved.unwrap_or_default()),
        (None, Ok(evidence)) => (Outcome::Equal, evidence),
        (None, Err(reason)) => (Outcome::Unproven { reason }, String::new()),
    };
    Row { varied: variation.varied.clone(), requests: answers.len(), tokens, outcome, evidence, seconds }
}
