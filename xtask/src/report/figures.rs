//! Figures of performance outside of blocks.
//!
//! A figure is a number `n` with what makes it one of speed:
//! - a rate: `n tok/s`, `n GB/s`, `n TFLOPS`, `n tokens a second`, `n requests per second`;
//! - a time: `n ms`, `n µs`, `n s`, `n seconds`, `n minutes`;
//! - a ratio: `nx`, `n×`, `n times faster`, `n % slower`, or the words for one (`twice as ..`);
//! - a share of a limit: `n % of the read bandwidth`, `n % of the peak`.
//!
//! Numbers of other things (bytes, tokens, `4x4`, per cent of something else) are none. Searched
//! are all Markdown texts and the comments of Rust, CUDA and WGSL sources; in tests comments speak
//! of what the tests make up.
//!
//! Exempt are lines marked `<!-- goal -->`: goals and predictions, which nobody takes for
//! measurements. `bench/LOG.md` consists of them.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

use super::blocks;
use crate::tidy::Violation;
use crate::tidy::tree::{File, Tree, has_extension};

/// Holds goals, predictions and what came of them, and no blocks.
pub(super) const LOG: &str = "bench/LOG.md";

const GOAL: &str = "<!-- goal -->";
/// Sources whose comments are documentation.
const SOURCES: [&str; 4] = ["rs", "cu", "cuh", "wgsl"];

/// Not within a word: `k8s` and `p99_seconds` are names.
const NUMBER: &str = r"\b\d[\d,_]*(?:\.\d+)?";
const SHAPES: [&str; 7] = [
    r"NUMBER[\s-]?[A-Za-z]+/s(?:ec(?:ond)?)?\b",
    r"NUMBER[\s-]?(?:[A-Za-z-]+\s)?[A-Za-z]+\s(?:a|per)\s(?:second|minute)\b",
    r"NUMBER[\s-]?[kKMGTP]?FLOPS?\b",
    r"NUMBER[\s-]?(?:[nuµμm]?s|secs?|(?:milli|micro|nano)?seconds?|minutes?)\b",
    r"NUMBER(?:x\b|\s?×(?:\W|$))",
    r"(?:NUMBER\s?(?:x|×|times|%)|\b(?:twice|thrice|half|double|triple))\s(?:as\s(?:fast|slow)|faster|slower|the\s(?:speed|rate|throughput))\b",
    r"NUMBER\s?%\sof\s(?:the|its|our|their)\s(?:[\w-]+\s)?(?:roofline|bandwidth|peak|limit|rate)\b",
];

/// Both forms: which of many shapes occur at all, and where.
static ANY: LazyLock<RegexSet> =
    LazyLock::new(|| RegexSet::new(SHAPES.map(shape)).expect("the shapes are sound"));
static EACH: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    SHAPES.iter().map(|text| Regex::new(&shape(text)).expect("the shapes are sound")).collect()
});

fn shape(text: &str) -> String {
    text.replace("NUMBER", NUMBER)
}

/// Figures outside of blocks, by line.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    tree.files.iter().flat_map(in_file).collect()
}

fn in_file(file: &File) -> Vec<Violation> {
    let markdown = has_extension(&file.path, "md");
    let source = SOURCES.iter().any(|extension| has_extension(&file.path, extension)) && !file.is_test();
    if file.path == LOG || !(markdown || source) {
        return Vec::new();
    }
    let covered = if markdown { blocks::covered(file) } else { Vec::new() };
    let open = |line: usize, text: &str| {
        let comment = markdown || text.trim_start().starts_with("//");
        comment && !text.contains(GOAL) && !covered.get(line - 1).copied().unwrap_or(false)
    };
    let found = file.lines().filter(|(line, text)| open(*line, text)).filter_map(|(line, text)| {
        let figure = figure(text)?;
        let message = format!(
            "`{figure}` is a figure of performance outside of a block; show it from a record, or mark a goal with `{GOAL}`"
        );
        Some(Violation::new(&file.path, line, message))
    });
    found.collect()
}

/// The first figure of a line.
pub(super) fn figure(text: &str) -> Option<&str> {
    let found = ANY.matches(text).into_iter().filter_map(|at| EACH[at].find(text));
    let first = found.min_by_key(regex::Match::start)?.as_str();
    // What ends a shape may lie behind the figure.
    Some(first.trim_end_matches(|c: char| !(c.is_alphanumeric() || c == '×')))
}
