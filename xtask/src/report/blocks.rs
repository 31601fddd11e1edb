//! Marked blocks: where they are, what belongs in them, and what differs.

use nvllm_bench::report::{Chart, Report};

use crate::ops;
use crate::tidy::Violation;
use crate::tidy::tree::File;

/// Where charts lie.
pub(super) const CHARTS: &str = "docs/charts";

/// What to do about a stale block.
pub(super) const REMEDY: &str = "`cargo xtask report` brings it up to date";

const START: (&str, &str) = ("<!-- report:", " -->");
const END: &str = "<!-- /report -->";

/// A block by its lines, counted from 0: the markers stand right before and behind them.
struct Block<'a> {
    name: &'a str,
    lines: std::ops::Range<usize>,
}

/// Whether each line of the file stands in a block, markers included. What is wrong with the
/// markers is the business of [`check`].
pub(super) fn covered(file: &File) -> Vec<bool> {
    let mut covered = vec![false; file.text.lines().count()];
    for block in blocks(file).unwrap_or_default() {
        covered[block.lines.start - 1..=block.lines.end].fill(true);
    }
    covered
}

/// The file with every block as the records give it.
pub(super) fn rewritten(file: &File, report: &Report) -> Result<String, Violation> {
    let lines: Vec<&str> = file.text.lines().collect();
    let (mut text, mut done) = (String::new(), 0);
    for block in blocks(file)? {
        text.extend(lines[done..block.lines.start].iter().flat_map(|line| [line, "\n"]));
        text += &wanted(file, &block, report)?;
        done = block.lines.end;
    }
    text.extend(lines[done..].iter().flat_map(|line| [line, "\n"]));
    Ok(text)
}

/// What differs from what the records give, by line.
pub(super) fn check(file: &File, report: &Report) -> Vec<Violation> {
    let found = blocks(file).and_then(|blocks| {
        let of_block = |block: Block| Ok(differences(file, &block, &wanted(file, &block, report)?));
        blocks.into_iter().map(of_block).collect::<Result<Vec<_>, Violation>>()
    });
    found.map_or_else(|violation| vec![violation], |found| found.concat())
}

/// The charts that only blocks of this file show; errors with the first that cannot be drawn.
pub(super) fn charts(file: &File, report: &Report) -> Result<Vec<Chart>, Violation> {
    let mut charts = Vec::new();
    for block in blocks(file)? {
        let chart = report.chart(block.name);
        charts.extend(chart.map_err(|error| violation(file, &block, error.to_string()))?);
    }
    Ok(charts)
}

/// The blocks of a file; errors with the first marker that is wrong.
fn blocks(file: &File) -> Result<Vec<Block<'_>>, Violation> {
    let wrong = |at: usize, problem: String| Violation::new(&file.path, at + 1, problem);
    let mut blocks = Vec::new();
    let mut open: Option<(&str, usize)> = None;
    for (at, line) in file.text.lines().enumerate() {
        let name = line.trim().strip_prefix(START.0).and_then(|rest| rest.strip_suffix(START.1));
        match (name, open) {
            (Some(name), None) => open = Some((name, at)),
            (Some(name), Some((outer, _))) => {
                return Err(wrong(at, format!("block report:{name} begins inside of report:{outer}")));
            }
            (None, Some((name, start))) if line.trim() == END => {
                blocks.push(Block { name, lines: start + 1..at });
                open = None;
            }
            (None, None) if line.trim() == END => return Err(wrong(at, format!("`{END}` ends no block"))),
            _ => {}
        }
    }
    match open {
        Some((name, at)) => Err(wrong(at, format!("block report:{name} does not end with `{END}`"))),
        None => Ok(blocks),
    }
}

/// The block that holds what backends say of themselves, and no record.
const OPS: &str = "ops";

fn wanted(file: &File, block: &Block, report: &Report) -> Result<String, Violation> {
    let text = if block.name == OPS {
        ops::block().map_err(|error| format!("{error:#}"))
    } else {
        report.block(block.name, &charts_from(&file.path)).map_err(|error| error.to_string())
    };
    text.map_err(|problem| violation(file, block, problem))
}

/// What is wrong with a block, at the line of its marker.
fn violation(file: &File, block: &Block, problem: String) -> Violation {
    Violation::new(&file.path, block.lines.start, problem)
}

/// Path of the charts as seen from the file at `path`.
fn charts_from(path: &str) -> String {
    let mut to: Vec<&str> = CHARTS.split('/').collect();
    let mut from: Vec<&str> = path.split('/').collect();
    from.pop();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from.len() - common;
    to.drain(..common);
    [vec![".."; up], to].concat().join("/")
}

/// Lines of the block that are not what the records give, each with the first words that differ.
fn differences(file: &File, block: &Block, wanted: &str) -> Vec<Violation> {
    let have: Vec<&str> = file.text.lines().skip(block.lines.start).take(block.lines.len()).collect();
    let want: Vec<&str> = wanted.lines().collect();
    let differs = |at: &usize| have.get(*at) != want.get(*at);
    let mut lines: Vec<usize> = (0..have.len().max(want.len())).filter(differs).collect();
    // Where lines were added or taken away, all behind them differ.
    if have.len() != want.len() {
        lines.truncate(1);
    }
    let violation = |at: usize| {
        let problem = match (have.get(at), want.get(at)) {
            (Some(have), Some(want)) => {
                let mut words = have.split_whitespace().zip(want.split_whitespace());
                let (have, want) = words.find(|(have, want)| have != want).unwrap_or((have, want));
                format!("no record gives `{have}`, but `{want}`")
            }
            (Some(have), None) => format!("no record gives `{have}`"),
            (None, want) => format!("`{}` is missing", want.unwrap_or(&"")),
        };
        let line = block.lines.start + at.min(block.lines.len()) + 1;
        Violation::new(&file.path, line, format!("block report:{}: {problem}; {REMEDY}", block.name))
    };
    lines.into_iter().map(violation).collect()
}
