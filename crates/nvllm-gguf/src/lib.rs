//! GGUF files: one file, or several, that hold a model's weights, its configuration and its
//! tokenizer.
//!
//! [`Gguf`] reads versions 2 and 3, little-endian, and maps the files: opening costs a walk through
//! the header. Metadata keep their place in the mapping, so that a vocabulary of 150,000 tokens
//! costs nothing until it is asked for. A file may come from anywhere: whatever its header says, it
//! is read or refused, in time and memory that its length bounds.
//!
//! Format: ggml, `docs/gguf.md`; block types: ggml, `ggml-common.h`.
//!
//! Deliberately absent: writing, quantising, big-endian files, version 1.

mod architecture;
mod blocks;
mod config;
mod cursor;
mod file;
mod ggml_type;
mod header;
mod metadata;
mod names;
mod rope;
mod split;
#[cfg(test)]
mod tests;
mod value;
mod weights;

pub use architecture::check_start;
pub use file::Gguf;
pub use metadata::Metadata;
pub use split::SplitName;

/// The element types whose values are read, for messages.
const SUPPORTED: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K";
