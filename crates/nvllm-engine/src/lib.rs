//! What stands between a user's words and a model's steps.
//!
//! The engine turns a name into files ([`hub`]), text into token ids and back ([`text`]), and ids into steps. Everything
//! that depends on a *checkpoint's own conventions* (its tokenizer, its chat template, its defaults for sampling, the
//! layout of its repository) ends here: the scheduler and the backends below see ids and tensors only.
//!
//! Two properties run through the text side, because a server streams it:
//!
//! * **Chunking never shows.** The pieces that a stream yields, joined, are the text that decoding all ids at once gives,
//!   and a stop string is found at the same place however the text was cut.
//! * **The checkpoint decides.** Templates and decoders are the ones the model was trained with, byte for byte; where a
//!   file asks for something that is not supported, loading fails with the reason instead of coming close.
//!
//! An [`Engine`] owns one thread, which owns the device: it plans a step, submits it, collects the one before, and turns
//! what came out into [`Event`]s of the requests. Whoever holds a [`RequestStream`] reads them; dropping it aborts.
//!
//! Deliberately absent: reading environment variables (the binary does, and passes [`hub::HubOptions`]), drawing
//! progress (callbacks report it), tokenizer training, and any network access other than fetching a named model.

mod checkpoint;
mod device;
mod end_tokens;
mod engine;
mod error;
mod failure;
pub mod hub;
mod model;
mod options;
mod plan;
mod registry;
mod request;
pub mod text;

pub use engine::{Engine, EngineInfo, LoadProgress, RequestStream};
pub use error::EngineError;
pub use model::{Model, ModelBytes};
pub use nvllm_sched::{FinishReason, Stats};
pub use options::LoadOptions;
pub use plan::LoadPlan;
pub use request::{Event, Finished, Request};

/// What every fallible function of this crate returns.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
