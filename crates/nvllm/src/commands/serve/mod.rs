//! `nvllm serve`: an HTTP server that clients of `OpenAI`, Anthropic and vLLM can use.
//!
//! The socket is bound before anything else, and answers from then on. A thread opens and loads the
//! model; the main thread waits for what ends the server: a failure, or a signal.

mod args;
mod config;
mod life;
mod logs;
mod notify;
mod vllm_flags;

pub(crate) use args::Serve;
pub(crate) use config::with_config;
pub(crate) use logs::show_messages;

pub(super) use life::{allow_many_connections, run};
