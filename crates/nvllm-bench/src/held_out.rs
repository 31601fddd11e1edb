//! A text that the demo model never saw: its perplexity is known, and prompts are spans of it.

use crate::{BenchError, Result};

const TEXT: &[u8] = include_bytes!("../../../tests/eval/val.txt.xz");

/// What stands between the documents of the held-out text.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

/// The documents of the held-out text.
pub(crate) fn documents() -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut &TEXT[..], &mut bytes).map_err(|e| data(&e))?;
    let text = String::from_utf8(bytes).map_err(|e| data(&e))?;
    let documents = text.split(END_OF_TEXT).map(str::trim).filter(|document| !document.is_empty());
    Ok(documents.map(str::to_owned).collect())
}

fn data(problem: &dyn std::fmt::Display) -> BenchError {
    BenchError::Data { file: "val.txt.xz".into(), problem: problem.to_string() }
}
