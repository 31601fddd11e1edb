//! `cargo xtask bench`: `nvllm bench` for those who work on nvLLM.
//!
//! It adds what needs the repository: the golden fixtures, models of random weights, the commit,
//! the peers' adapters, and the program itself, freshly built. In a bundle, which has no source,
//! the program lies beside this one.

mod args;
mod gate;
mod run;

pub(crate) use args::Args;
pub(crate) use run::command;
