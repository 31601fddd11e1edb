//! `cargo xtask ops`: one op at a time, right and timed.
//!
//! Two kinds of case: those of the conformance suite, whose shapes are drawn, and the ops of real
//! models in their shapes. Every case is held to the reference within the suite's bounds; with
//! `--perf` the ops of real models are timed too, beside the limits of the hardware, and with
//! `--records` every time is kept. `--support` prints what each backend runs by a kernel of its
//! own, and a block `report:ops` of a text holds it (`cargo xtask report`).
//!
//! It runs from a checkout, also as part of a bundle on a machine without Rust.

mod args;
mod cases;
mod perf;
mod records;
mod support;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use nvllm_bench::MatmulRates;
use nvllm_conformance::{CASES, ModelOp, WithNumerics};

use crate::model;
pub(crate) use args::Args;
use args::Shape;
use records::Records;
pub(crate) use support::block;

/// The ops of the models, each shape once.
fn shapes(root: &Path, args: &Args) -> Result<Vec<Shape>> {
    let mut shapes: Vec<Shape> = Vec::new();
    for config in &args.config {
        let file = model::config_file(root, config)?;
        let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let spec = model::record(&text).with_context(|| file.display().to_string())?;
        let name = nvllm_bench::files::base_name(config);
        let name = name.strip_suffix(".json").unwrap_or(&name);
        for op in ModelOp::all(&spec)? {
            if shapes.iter().all(|other| other.op.name != op.name) {
                shapes.push(Shape { model: name.to_owned(), num_parameters: spec.num_parameters(), op });
            }
        }
    }
    Ok(shapes)
}

/// Runs the cases. Fails if one is wrong.
pub(crate) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    args.check()?;
    if args.support {
        print!("{}", support::block()?);
        return Ok(ExitCode::SUCCESS);
    }
    let shapes = shapes(root, args)?;
    if args.list {
        cases::list(args, &shapes);
        return Ok(ExitCode::SUCCESS);
    }
    let (backend, setting) = (args.open()?, args.setting()?);
    if !args.json {
        println!("{}\n", backend.info().device);
    }
    let with_numerics = WithNumerics { backend: backend.as_ref(), numerics: args.order() };
    let records = args.records.as_ref().map(|path| Records::new(path, root, args, backend.as_ref()));
    let records = records.transpose()?;
    let (mut count, mut rates) = (cases::Count::default(), MatmulRates::default());
    for case in CASES.iter().filter(|case| args.wants_drawn(case.name)) {
        let outcome = cases::drawn(case, &with_numerics, args.trials);
        count.add(&outcome);
        cases::show(args, case.name, None, &outcome);
    }
    for (shape, extents) in
        shapes.iter().flat_map(|shape| args.extents().into_iter().map(move |e| (shape, e)))
    {
        let name = format!("{}, {extents}", shape.op.name);
        if !args.wants(shape.op.op().stem(), &name) {
            continue;
        }
        let outcome = cases::of_model(&shape.op, backend.as_ref(), extents, setting);
        count.add(&outcome);
        let timed = if args.perf && outcome.is_native() {
            perf::measure(&shape.op, backend.as_ref(), extents, setting, &mut rates)?
        } else {
            None
        };
        if let (Some(records), Some(timing), Some(checked)) = (&records, &timed, outcome.checked()) {
            records.add(shape, extents, &checked, timing)?;
        }
        cases::show(args, &name, Some((&shape.model, timed)), &outcome);
    }
    eprintln!("{count}");
    Ok(if count.failed == 0 && count.any() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
