//! What quantised weights cost in quality, from the records of `nvllm eval --json`.

use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use super::section::distinct;
use crate::{BenchError, Result};

/// Name of the block.
pub(super) const NAME: &str = "quality";

/// One evaluation; `nvllm eval --help` says how a text is read, and what the figures are.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row {
    commit: String,
    model: String,
    weights: String,
    backend: String,
    activations: String,
    /// The format of the KV cache; the activations' where a record does not say.
    kv_cache: Option<String>,
    text: String,
    tokens: usize,
    window: usize,
    stride: usize,
    weight_bytes: u64,
    perplexity: f64,
    reference: Option<Reference>,
}

#[derive(Clone, Debug, Deserialize)]
struct Reference {
    model: String,
    perplexity: f64,
    mean_kl: f64,
    largest_kl: f64,
    top1: f64,
}

impl Row {
    /// What rows of one table share: the model that they are held against, for one.
    fn conditions(&self) -> (&str, &str, &str, &str, usize, usize, usize) {
        let Self { backend, activations, text, tokens, window, stride, .. } = self;
        let model = self.reference.as_ref().map_or(&*self.model, |reference| &reference.model);
        (model, backend, activations, text, *tokens, *window, *stride)
    }

    /// Its weights, its name where that is not the reference's, and its KV cache where that is not
    /// in the activations' type.
    fn label(&self) -> String {
        let mut label = self.weights.clone();
        if self.reference.as_ref().is_some_and(|reference| reference.model != self.model) {
            let _ = write!(label, " ({})", self.model);
        }
        if let Some(format) = self.kv_cache.as_ref().filter(|format| **format != self.activations) {
            let _ = write!(label, "; KV cache in {format}");
        }
        label
    }
}

/// The evaluations in the file at `path`.
///
/// Errors if it cannot be read, a line is no record, or its figures cannot be.
pub(super) fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).map_err(BenchError::io("read", path))?;
    let bad = |line, problem| BenchError::BadLine { path: path.into(), line, problem };
    let row = |(line, text)| {
        let row: Row = serde_json::from_str(text).map_err(|e| bad(line, e.to_string()))?;
        let numbers =
            |r: &Reference| r.mean_kl >= 0.0 && r.largest_kl >= r.mean_kl && (0.0..=1.0).contains(&r.top1);
        let known = row.tokens > 0 && row.perplexity >= 1.0 && row.reference.as_ref().is_none_or(numbers);
        if known { Ok(row) } else { Err(bad(line, "has figures that cannot be".into())) }
    };
    (1..).zip(text.lines()).map(row).collect()
}

/// A table for each model and way to read a text.
pub(super) fn block(rows: &[Row]) -> String {
    let mut text = String::new();
    for conditions in distinct(rows.iter().map(Row::conditions)) {
        let rows: Vec<_> = rows.iter().filter(|row| row.conditions() == conditions).collect();
        let (model, backend, activations, source, tokens, window, stride) = conditions;
        let _ = writeln!(
            text,
            "{model} on {backend}, activations in {activations}: {tokens} tokens of {source}, windows of {window} tokens at a stride of {stride}; commit {}\n",
            distinct(rows.iter().map(|row| row.commit.chars().take(12).collect::<String>())).join(", ")
        );
        text += "| weights | MB in memory | perplexity | of the reference | mean KL, nats | largest KL | top-1 equal |\n|---|---|---|---|---|---|---|\n";
        for row in rows {
            let size = row.weight_bytes as f64 * 1e-6;
            let _ = write!(text, "| {} | {size:.1} | {:.3} |", row.label(), row.perplexity);
            let _ = match &row.reference {
                Some(Reference { perplexity, mean_kl, largest_kl, top1, .. }) => {
                    writeln!(
                        text,
                        " {perplexity:.3} | {mean_kl:.5} | {largest_kl:.3} | {:.2} % |",
                        100.0 * top1
                    )
                }
                None => writeln!(text, " | | | |"),
            };
        }
        text.push('\n');
    }
    if text.is_empty() {
        return "Nothing is on record yet: `nvllm eval --json` measures.\n".into();
    }
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(weights: &str, kl: f64, window: usize) -> String {
        format!(
            r#"{{"commit":"0123456789abcdef","model":"m","weights":"{weights}","backend":"cpu","activations":"bf16","text":"t","tokens":9,"window":{window},"stride":4,"weight_bytes":2500000,"perplexity":12.3456,"reference":{{"model":"m","perplexity":12.0,"mean_kl":{kl},"largest_kl":0.5,"top1":0.975,"nll":1.0}}}}"#
        )
    }

    fn of(lines: &[String]) -> Result<Vec<Row>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.jsonl");
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        read(&path)
    }

    #[test]
    fn each_way_to_read_a_text_has_a_table_of_its_own() {
        let text =
            block(&of(&[line("int4", 0.01, 8), line("int8", 0.001, 8), line("int4", 0.02, 16)]).unwrap());
        assert!(
            text.contains("| int4 | 2.5 | 12.346 | 12.000 | 0.01000 | 0.500 | 97.50 % |\n| int8 | "),
            "{text}"
        );
        let fp8 = r#""activations":"bf16","kv_cache":"fp8""#;
        let other = line("int4", 0.01, 8).replacen(r#""model":"m""#, r#""model":"m-gptq""#, 1);
        let cached = block(&of(&[line("int4", 0.01, 8).replace(r#""activations":"bf16""#, fp8)]).unwrap());
        assert!(cached.contains("| int4; KV cache in fp8 |"), "{cached}");
        let other = block(&of(&[other]).unwrap());
        assert!(other.starts_with("m on cpu") && other.contains("| int4 (m-gptq) |"), "{other}");
        assert_eq!(
            (text.matches("| weights |").count(), text.matches("commit 0123456789ab\n").count()),
            (2, 2)
        );
    }

    #[test]
    fn figures_that_cannot_be_are_refused() {
        for bad in [line("w", -0.1, 8), line("w", 0.6, 8), "{}".into()] {
            assert!(of(&[bad]).unwrap_err().to_string().contains("q.jsonl:1"));
        }
    }
}
