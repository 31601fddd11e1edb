//! `cargo xtask report`: figures in texts come from records, and from nowhere else.
//!
//! Every figure stands in a marked block,
//!
//! ```text
//! <!-- report:NAME -->
//! what the records give
//! <!-- /report -->
//! ```
//!
//! which this command rewrites together with the charts. Where the name begins with `decode`, it
//! also says which records are the lines of a chart: `decode h200; LABEL = FILE; LABEL = FILE,
//! ENGINE`. With `--check` it changes nothing and fails if a block or a chart is not what the
//! records give ([`blocks`]), or if a figure stands outside of a block ([`figures`]). The tests
//! check so.
//!
//! Deliberately absent: a way to type a figure, and charts or tables of its own. Those are
//! `nvllm_bench::report`'s.

mod blocks;
mod figures;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nvllm_bench::report::{Chart, Report};

use crate::tidy::Violation;
use crate::tidy::tree::{File, Tree, has_extension};
use blocks::CHARTS;
use figures::LOG;

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if a block or chart is not what the records give, or a figure stands
    /// outside of a block
    #[arg(long)]
    check: bool,
}

const RECORDS: &str = "bench/records";

/// Rewrites blocks and charts, or checks them.
pub(crate) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    let report = Report::read(&root.join(RECORDS))?;
    let mut found = if args.check { Vec::new() } else { write(root, &report)? };
    found.extend(violations(&Tree::read(root)?, &report));
    found.sort();
    found.dedup();
    found.iter().for_each(|violation| println!("{violation}"));
    if found.is_empty() {
        println!("report: every figure is what the records give");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("report: {} violations", found.len());
    Ok(ExitCode::FAILURE)
}

/// Texts that may hold blocks.
fn texts(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.files.iter().filter(|file| has_extension(&file.path, "md") && file.path != LOG)
}

/// Every chart: those of the files of records, and those that blocks name the records of.
fn charts(tree: &Tree, report: &Report) -> Result<Vec<Chart>, Violation> {
    let mut charts = report.charts();
    for file in texts(tree) {
        charts.extend(blocks::charts(file, report)?);
    }
    Ok(charts)
}

/// Brings blocks and charts to what the records give; what stands in the way of that.
fn write(root: &Path, report: &Report) -> Result<Vec<Violation>> {
    let put = |path: &str, text: &str| {
        std::fs::write(root.join(path), text).with_context(|| format!("cannot write {path}"))
    };
    let tree = Tree::read(root)?;
    let mut found = Vec::new();
    for file in texts(&tree) {
        match blocks::rewritten(file, report) {
            Ok(text) if text != file.text => put(&file.path, &text)?,
            Ok(_) => {}
            Err(violation) => found.push(violation),
        }
    }
    // A block that cannot be drawn is found by `violations`; until it can, its chart stays.
    let Ok(charts) = charts(&tree, report) else { return Ok(found) };
    for path in strays(&tree, &charts) {
        std::fs::remove_file(root.join(path)).with_context(|| format!("cannot remove {path}"))?;
    }
    if !charts.is_empty() {
        std::fs::create_dir_all(root.join(CHARTS)).with_context(|| format!("cannot make {CHARTS}"))?;
    }
    for chart in &charts {
        put(&format!("{CHARTS}/{}", chart.name), &chart.svg)?;
    }
    Ok(found)
}

/// Everything in `tree` that is not what the records give.
fn violations(tree: &Tree, report: &Report) -> Vec<Violation> {
    let mut found: Vec<Violation> =
        texts(tree).flat_map(|file| blocks::check(file, report)).chain(figures::check(tree)).collect();
    // The check of its block has said why.
    let Ok(charts) = charts(tree, report) else { return found };
    for chart in &charts {
        let path = format!("{CHARTS}/{}", chart.name);
        let problem = match tree.files.iter().find(|file| file.path == path) {
            Some(file) if file.text == chart.svg => continue,
            Some(_) => "is not what the records give",
            None => "is missing",
        };
        found.push(Violation::new(&path, 1, format!("{problem}; {}", blocks::REMEDY)));
    }
    let stray =
        |path: &str| Violation::new(path, 1, format!("no record gives this chart; {}", blocks::REMEDY));
    found.extend(strays(tree, &charts).map(stray));
    found
}

/// Files among the charts that no record gives.
fn strays<'a>(tree: &'a Tree, charts: &'a [Chart]) -> impl Iterator<Item = &'a str> {
    let paths = tree.files.iter().map(|file| file.path.as_str());
    paths.filter(|path| {
        path.strip_prefix(CHARTS)
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|name| charts.iter().all(|chart| chart.name != name))
    })
}

#[cfg(test)]
mod tests;
