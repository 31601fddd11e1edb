//! What stands between a user's words and a model's steps.
//!
//! The engine turns a name into files ([`hub`]), text into token ids and back ([`text`]), and ids
//! into steps. Everything that depends on a *checkpoint's own conventions* (its tokenizer, its chat
//! template, its defaults for sampling, the layout of its repository) ends here: the scheduler and
//! the backends below see ids and tensors only.
//!
//! Two properties run through the text side, because a server streams it:
//!
//! * **Chunking never shows.** The pieces that a stream yields, joined, are the text that decoding
//!   all ids at once gives, and a stop string is found at the same place however the text was cut.
//! * **The checkpoint decides.** Templates and decoders are the ones the model was trained with,
//!   byte for byte; where a file asks for something that is not supported, loading fails with the
//!   reason instead of coming close.
//!
//! # Serving
//!
//! An [`Engine`] owns two threads. One owns the device: it plans a step, submits it, collects the
//! one before, and goes on. The other owns the clients: it makes text of the tokens and hands
//! [`Event`]s to each request's [`EventSink`]. Callers wait for neither. A request is checked on
//! the caller's thread and put into a bounded queue, and may be aborted wherever it is; every
//! request that was taken is told one end.
//!
//! What a request may sample can be restricted ([`Request::allowed_tokens`],
//! [`Request::bad_words`]): a step with such a request gets its masks while it runs, and the tokens
//! of others in it are what they are without it.
//!
//! ```
//! use std::sync::Arc;
//!
//! use nvllm_core::{Reference, TokenId};
//! use nvllm_engine::hub::ModelFiles;
//! use nvllm_engine::text::EncodeOptions;
//! use nvllm_engine::{Engine, Event, FinishReason, LoadOptions, Model, Request};
//!
//! # fn main() -> nvllm_engine::Result<()> {
//! # let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
//! let model = Arc::new(Model::open(&ModelFiles::in_directory(&dir)?)?);
//! let engine = Engine::builder(Arc::clone(&model), || Ok(Box::new(Reference::default())))
//!     .options(LoadOptions { max_model_len: Some(64), ..LoadOptions::default() })
//!     .start()?;
//!
//! let prompt = model.tokenizer()?.encode("Once upon a time", EncodeOptions::default())?;
//! let request = Request {
//!     prompt: prompt.into_iter().map(TokenId).collect(),
//!     max_tokens: Some(4),
//!     ..Request::default()
//! };
//!
//! // All at once,
//! let generated = engine.generate(request.clone())?;
//! assert_eq!(generated.tokens.len(), 4);
//!
//! // or as it comes. Dropping the stream aborts the request.
//! let mut text = String::new();
//! for event in engine.stream(request.clone())? {
//!     match event {
//!         Event::Token { text: piece, .. } => text += &piece,
//!         Event::Finished(finished) => text += &finished.text,
//!         Event::PromptRow { .. } | Event::Embedding { .. } => {}
//!     }
//! }
//! assert_eq!(text, generated.text);
//!
//! // A request can be ended by its id, from any thread.
//! let long = Request { max_tokens: None, ..request };
//! let stream = engine.stream(long)?;
//! engine.abort(stream.id());
//! let Some(Event::Finished(finished)) = stream.last() else { unreachable!("every request has an end") };
//! assert_eq!(finished.reason, FinishReason::Aborted);
//!
//! let stats = engine.stats();
//! assert_eq!((stats.finished.length, stats.finished.aborted), (2, 1));
//! # Ok(())
//! # }
//! ```
//!
//! [`Request::grammar`] makes an answer follow a JSON schema, a regular expression or a grammar:
//! [`grammar`].
//!
//! Thoughts and calls of tools are told apart from the rest of an answer by an [`AnswerParser`].
//!
//! An engine that is loaded for it ([`LoadOptions::embeddings`]) also makes embeddings of prompts:
//! [`Engine::embed`].
//!
//! For async code [`Engine::stream_async`] and [`Engine::generate_async`] do the same, and
//! `submit`, `abort` and `stats` may be called in a task as they are.
//!
//! Deliberately absent: reading environment variables (the binary does, and passes
//! [`hub::HubOptions`]), drawing progress (callbacks report it), tokenizer training, and any
//! network access other than fetching a named model.

pub mod answer;
mod async_stream;
mod backlog;
mod builder;
mod checkpoint;
mod embedding;
mod end_tokens;
mod engine;
mod engine_loop;
mod error;
pub mod eval;
mod failure;
mod generated;
pub mod gguf;
pub mod grammar;
mod health;
pub mod hub;
mod info;
mod model;
mod options;
mod out_dir;
mod plan;
pub mod quantize;
pub mod registry;
mod request;
mod shared;
mod sink;
mod stats;
mod stream;
mod tensor_file;
pub mod text;
mod text_stage;
mod token_mask;
mod validator;
pub mod verify;

pub use answer::{AnswerFormat, AnswerParser, AnswerPart, ToolFormat};
pub use async_stream::AsyncRequestStream;
pub use builder::EngineBuilder;
pub use embedding::Embedding;
pub use engine::Engine;
pub use error::EngineError;
pub use generated::Generated;
pub use health::Health;
pub use info::{EngineInfo, LoadProgress};
pub use model::{LoadedWeights, Model, ModelBytes};
pub use nvllm_quant::make::{Format, Recipe};
pub use nvllm_sched::{FinishReason, SchedError};
pub use options::{LoadOptions, Tenant};
pub use plan::LoadPlan;
pub use request::{Event, Finished, MAX_SALT_LEN, Request, RequestId};
pub use sink::{EventSink, Gone};
pub use stats::{EngineStats, FinishCounts};
pub use stream::RequestStream;

/// What every fallible function of this crate returns.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
