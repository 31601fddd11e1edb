//! Markdown of the blocks.

use std::fmt::Write as _;

use super::chart::Chart;
use super::section::Section;
use super::section::is_quick;
use crate::record::Record;
use crate::{table, workload};

/// What stands in a block whose records were not made yet.
const NOTHING: &str = "Nothing is on record yet: `cargo xtask bench` measures.\n";

/// A prompt of about this many tokens stands for prefill in a summary.
const SUMMARY_PROMPT: usize = 1024;

/// The chart of shares, a few rows, and the conditions.
pub(super) fn summary(section: Option<&Section>, charts: &str) -> String {
    let Some(section) = section else { return NOTHING.into() };
    let mut text = String::new();
    if let Some(chart) = section.charts().first() {
        text += &image(chart, charts);
    }
    text += &table::figures(&short(section));
    text += "\n";
    text + &conditions(section)
}

/// The records of a summary: decode at the smallest context with the smallest and the largest
/// batch, one prompt, every request set and start.
fn short(section: &Section) -> Vec<Record> {
    let ours = |workload: &str| section.select(|record| record.is_ours() && record.workload == workload);
    let batches: Vec<_> =
        ours("decode").iter().map(|record| (record.case.context, record.case.batch)).collect();
    let context = batches.iter().map(|(context, _)| *context).min();
    let of_context = || batches.iter().filter(|(of, _)| Some(*of) == context).map(|(_, batch)| *batch);
    let prompts: Vec<_> = ours("prefill").iter().filter_map(|record| record.case.prompt_len).collect();
    let fitting = prompts.iter().filter(|len| **len <= SUMMARY_PROMPT).max();
    let prompt = fitting.or(prompts.iter().min()).copied();
    section.select(|record| match record.workload.as_str() {
        "decode" => {
            Some(record.case.context) == context
                && [of_context().min(), of_context().max()].contains(&Some(record.case.batch))
        }
        "prefill" => record.case.prompt_len == prompt,
        "startup" | "nano" => true,
        _ => false,
    })
}

/// Every section with every table.
pub(super) fn everything<'a>(sections: impl Iterator<Item = &'a Section>, charts: &str) -> String {
    let text: String = sections.map(|section| whole(section, charts)).collect();
    if text.is_empty() { NOTHING.into() } else { text }
}

fn whole(section: &Section, charts: &str) -> String {
    if section.records.is_empty() {
        return String::new();
    }
    let mut text = format!("## {}\n\n", section.title());
    text.extend(section.charts().iter().map(|chart| image(chart, charts)));
    for name in section.workloads() {
        let records = section.select(|record| record.workload == name);
        let _ = match workload::find(name) {
            Ok(known) => {
                write!(text, "### {name} ({})\n\n{}.\n\n", known.code(), sentence(known.definition()))
            }
            Err(_) => write!(text, "### {name}\n\n"),
        };
        text += &table::figures(&records);
        text += "\n";
        let latencies = table::latencies(&records);
        if !latencies.is_empty() {
            let _ = writeln!(text, "{latencies}");
        }
    }
    let _ = write!(text, "### Conditions\n\n{}", conditions(section));
    let _ = write!(text, "\n### Engines\n\n{}\n", engines(section));
    text
}

/// The conditions of each run that is shown.
fn conditions(section: &Section) -> String {
    let of = |run: &str| {
        let records = section.select(|record| record.run == run);
        let workloads: Vec<&str> = section
            .workloads()
            .into_iter()
            .filter(|name| records.iter().any(|r| r.workload == *name))
            .collect();
        let quick = if records.iter().any(is_quick) { "; a quick look of few rounds" } else { "" };
        format!("{}run {run}: {}{quick}\n", table::conditions(&records), workloads.join(", "))
    };
    let runs: Vec<String> = section.runs().into_iter().map(of).collect();
    format!("```text\n{}```\n", runs.join("\n"))
}

/// Every engine as it was run.
fn engines(section: &Section) -> String {
    let mut text = String::from("| engine | version | command | detail |\n|---|---|---|---|\n");
    for name in section.engines() {
        let of_name = section.records.iter().filter(|record| record.engine.name == name);
        for engine in super::section::distinct(of_name.map(|record| &record.engine)) {
            let command =
                engine.command.as_deref().map_or_else(|| "-".into(), |command| format!("`{command}`"));
            let cells = [name, &engine.version, &command, &engine.detail].map(cell).join(" | ");
            let _ = writeln!(text, "| {cells} |");
        }
    }
    text
}

pub(super) fn image(chart: &Chart, charts: &str) -> String {
    format!("![{}]({charts}/{})\n\n", chart.title, chart.name)
}

/// With a capital at its beginning.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Text that stays in its cell.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
