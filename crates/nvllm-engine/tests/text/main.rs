//! The text side against what Hugging Face's libraries produced, and against the `tokenizers` crate
//! itself.

mod detokenizer;
mod gguf_vocabulary;
mod golden;
mod jinja;
mod jinja_differences;
mod support;
