//! Cases of coded weights: in every public format a backend computes with the values that the codes
//! stand for, or refuses them.
//!
//! A refusal is an error of `plan` and of `load`, names the weight and its format, and comes before
//! the weight's bytes are asked for. So no backend can multiply codes as if they were numbers.

use nvllm_core::{Backend, CoreError, WeightInfo};
use proptest::prelude::*;

use crate::check::{Settings, conforms_to, holds};
use crate::coded::{Coded, formats};
use crate::error::{Doing, Mismatch, Result};
use crate::ops::{experts, flat, layers, routings};
use crate::source::Counted;
use crate::trial::{Sketch, Trial, numbers};

/// Runs of each format, as a share of the settings' trials.
const SHARE: f64 = 0.15;

/// Holds `backend` to trials whose weights `names` are in each of the public formats.
fn each_format<S: Strategy<Value = Trial>>(
    case: &str,
    backend: &dyn Backend,
    settings: &Settings,
    names: &[&'static str],
    trials: impl Fn() -> S,
) -> Result<()> {
    let all = formats();
    for format in &all {
        let coded = trials().prop_map(|trial| Coded::new(trial.keep_all(), names, *format, &all));
        holds(case, settings, SHARE, coded, |coded| {
            if refused(backend, coded)? { Ok(()) } else { conforms_to(backend, &coded.trial, &coded.twin) }
        })?;
    }
    Ok(())
}

/// Whether `backend` refuses the trial for its coded weights, in `plan`, and in `load` under a plan
/// for dense ones.
fn refused(backend: &dyn Backend, coded: &Coded) -> Result<bool> {
    let Coded { trial, twin, .. } = coded;
    let source = Counted::new(&trial.source);
    let Err(cause) = backend.plan(&trial.spec, &source, &trial.limits) else { return Ok(false) };
    check_refusal("plan", cause, coded, &source)?;
    let mut dense = twin.source.clone();
    dense.change(|tensor| {
        tensor.format.act = None;
        tensor.act_scale = None;
    });
    let plan = backend.plan(&trial.spec, &dense, &trial.limits).doing("a plan for dense weights")?;
    match backend.load(plan, &source) {
        Ok(_) => Err(Mismatch::contract("load takes coded weights where dense ones are planned")),
        Err(cause) => check_refusal("load", cause, coded, &source).map(|()| true),
    }
}

/// Holds the error of `doing` to what a refusal says, and when.
fn check_refusal(doing: &str, cause: CoreError, coded: &Coded, source: &Counted<'_>) -> Result<()> {
    let CoreError::Unsupported { .. } = cause else {
        return Err(Mismatch::Refused { doing: doing.into(), cause });
    };
    let (Coded { trial, names, .. }, text) = (coded, cause.to_string());
    let mut named = false;
    for decl in trial.spec.weights.iter().filter(|decl| names.contains(&decl.name.as_str())) {
        let info = WeightInfo::of(decl, &trial.source).doing("WeightInfo::of")?;
        named |= text.contains(&format!("`{}`", decl.name))
            && info.parts.iter().any(|part| text.contains(&part.format.to_string()));
        let asked = source.beyond(0).filter(|(name, _)| decl.parts.iter().any(|p| p.source == *name));
        if let Some((name, _)) = asked {
            let problem =
                format!("{doing} refuses `{}` after it has asked for the bytes of `{name}`", decl.name);
            return Err(Mismatch::contract(problem));
        }
    }
    if named {
        return Ok(());
    }
    let problem = format!("{doing} refuses coded weights without naming one and its format: {text}");
    Err(Mismatch::contract(problem))
}

/// Rows of a coded table. An embedding has no input to quantise.
pub fn embed_formats(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = || {
        (numbers(backend), flat(), 1..600_usize, 1..100_usize).prop_map(|(numbers, layout, cols, vocab)| {
            let mut sketch = Sketch::new(numbers);
            let table = sketch.table("a", vocab, cols);
            sketch.finish(vocab, layout, |p| {
                p.embed(table);
            })
        })
    };
    each_format("embed_formats", backend, settings, &["a"], trials)
}

/// A coded linear layer in one to three parts, over tokens in the activation dtype and in f32.
pub fn linear_formats(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = || {
        (layers(backend, flat()), any::<bool>()).prop_map(|(layer, wide)| {
            layer.trial(1, |p, x, projection, _| {
                if wide {
                    p.linear_f32(x, projection)
                } else {
                    p.linear(x, projection)
                };
            })
        })
    };
    each_format("linear_formats", backend, settings, &["w"], trials)
}

/// Coded experts: one row a token, then one row a choice.
pub fn expert_linear_formats(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let shape = || [1..300_usize, 1..40_usize, 1..40_usize];
    let trials = || {
        (numbers(backend), flat(), routings(), shape()).prop_map(|(numbers, layout, routing, shape)| {
            experts(numbers, layout, &routing, shape, |_, _, _| {})
        })
    };
    each_format("expert_linear_formats", backend, settings, &["up", "down"], trials)
}
