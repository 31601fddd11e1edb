//! What a marker says: the chart's name, and which records make which line.
//!
//! ```text
//! decode NAME; LABEL = FILE; LABEL = FILE, ENGINE; LABEL = FILE, ENGINE, NUMERICS
//! ```
//!
//! `FILE` lies in the folder of records, without `.jsonl`. Without an engine the records are ours;
//! numerics are named where a file holds an engine's records under several.

use crate::record::OURS;
use crate::report::section::distinct;
use crate::{BenchError, Result};

/// The first word.
pub(super) const NAME: &str = "decode";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marker<'a> {
    /// Of the chart: `h200`.
    pub(super) name: &'a str,
    pub(super) lines: Vec<Source<'a>>,
}

/// The records of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source<'a> {
    /// In the legend.
    pub(super) label: &'a str,
    pub(super) file: &'a str,
    pub(super) engine: &'a str,
    /// Any if `None`.
    pub(super) numerics: Option<&'a str>,
}

impl<'a> Marker<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().and_then(|first| first.strip_prefix(NAME)).unwrap_or_default().trim();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(wrong(text, "its chart has no name of letters and digits"));
        }
        let lines: Vec<Source<'_>> = parts.map(|part| source(text, part)).collect::<Result<_>>()?;
        if lines.is_empty() {
            return Err(wrong(text, "it names no records"));
        }
        Ok(Self { name, lines })
    }

    /// The files that it names, each once.
    pub(super) fn files(&self) -> Vec<&'a str> {
        distinct(self.lines.iter().map(|line| line.file))
    }
}

fn source<'a>(marker: &str, text: &'a str) -> Result<Source<'a>> {
    let unclear = || wrong(marker, &format!("`{text}` is not `LABEL = FILE`"));
    let (label, records) = text.split_once('=').ok_or_else(unclear)?;
    let fields: Vec<&str> = records.split(',').map(str::trim).collect();
    let label = label.trim();
    let (file, engine, numerics) = match fields[..] {
        [file] => (file, OURS, None),
        [file, engine] => (file, engine, None),
        [file, engine, numerics] => (file, engine, Some(numerics)),
        _ => return Err(unclear()),
    };
    if label.is_empty() || fields.contains(&"") {
        return Err(unclear());
    }
    Ok(Source { label, file, engine, numerics })
}

fn wrong(marker: &str, problem: &str) -> BenchError {
    let problem =
        format!("`{marker}`: {problem}; write `decode NAME; LABEL = FILE; LABEL = FILE, ENGINE, NUMERICS`");
    BenchError::Option { option: "block", problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_names_the_records_of_each_line() {
        let text = "decode h200; before = a/b; vLLM = a/c, vllm; vLLM 2 = a/c, vllm, its own";
        let line = |label, file, engine, numerics| Source { label, file, engine, numerics };
        let lines = vec![
            line("before", "a/b", OURS, None),
            line("vLLM", "a/c", "vllm", None),
            line("vLLM 2", "a/c", "vllm", Some("its own")),
        ];
        let marker = Marker::parse(text).unwrap();
        assert_eq!(marker, Marker { name: "h200", lines });
        assert_eq!(marker.files(), ["a/b", "a/c"]);
    }

    #[test]
    fn a_wrong_marker_is_refused_with_the_right_form() {
        for (text, word) in [
            ("decode", "no name"),
            ("decode a/b; x = y", "no name"),
            ("decode h200", "names no records"),
            ("decode h200; before", "`before` is not"),
            ("decode h200; = a", "`= a` is not"),
            ("decode h200; before = ", "`before =` is not"),
            ("decode h200; before = a, b, c, d", "`before = a, b, c, d` is not"),
        ] {
            let message = Marker::parse(text).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains("LABEL = FILE"), "{text}: {message}");
        }
    }
}
