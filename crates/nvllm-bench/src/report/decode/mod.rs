//! Decode against the roofline: tokens a second by batch, of the lines that a block's marker names.
//!
//! The marker is the block's name, since lines of other builds lie in other files of records
//! ([`marker`]). What is drawn ([`curves`]) stands below the chart as a table too.

mod curves;
mod draw;
mod marker;

use std::fmt::Write as _;
use std::path::Path;

use super::chart::Chart;
use super::text;
use crate::Result;
use curves::{CONTEXT, Curves};
use marker::Marker;

/// Whether a block of this name is one of these.
pub(super) fn is_named(name: &str) -> bool {
    name.split_whitespace().next() == Some(marker::NAME)
}

/// The chart of the block `name`, of records in `dir`.
pub(super) fn chart(dir: &Path, name: &str) -> Result<Option<Chart>> {
    let marker = Marker::parse(name)?;
    let curves = Curves::read(dir, &marker)?;
    Ok(draw::chart(format!("decode-{}.svg", marker.name), &curves))
}

/// The chart, what it shows in a sentence, and its points in a table.
pub(super) fn block(dir: &Path, name: &str, charts: &str) -> Result<String> {
    let marker = Marker::parse(name)?;
    let curves = Curves::read(dir, &marker)?;
    let mut text = String::new();
    if let Some(chart) = draw::chart(format!("decode-{}.svg", marker.name), &curves) {
        text += &text::image(&chart, charts);
    }
    let files: Vec<String> =
        marker.files().iter().map(|file| format!("`bench/records/{file}.jsonl`")).collect();
    let _ = write!(
        text,
        "Tokens a second of decode steps of {}, context {CONTEXT}, by the sequences in a step ({}), from {}; \
         the roofline is batch / max(bytes / read bandwidth, operations / matmul rate), by the rates \
         that were measured beside the steps.\n\n",
        curves.subject,
        curves.detail,
        files.join(", ")
    );
    Ok(text + &table(&curves))
}

/// A row for each batch that is on record.
fn table(curves: &Curves) -> String {
    let columns: Vec<(&str, &[(usize, f64)])> = curves
        .lines
        .iter()
        .map(|line| (line.label.as_str(), line.points.as_slice()))
        .chain([("roofline", curves.roofline.as_slice())])
        .collect();
    let mut text = String::from("| batch |");
    text.extend(columns.iter().map(|(label, _)| format!(" {label} |")));
    text += &format!("\n|---|{}\n", "---|".repeat(columns.len()));
    for batch in curves.batches() {
        let _ = write!(text, "| {batch} |");
        for (_, points) in &columns {
            let rate = points.iter().find(|(of, _)| *of == batch);
            text += &rate.map_or_else(|| " - |".into(), |(_, rate)| format!(" {rate:.0} |"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
