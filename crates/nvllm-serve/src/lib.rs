//! The HTTP server: what clients of `OpenAI`, Anthropic and vLLM expect, over one engine.
//!
//! # One pipeline
//! A body is read into the types of its route (`wire`), which are checked and made into what can
//! run (`valid`): every refusal of a field is there. Texts become tokens (`prompt`), tokens
//! become engine requests that are submitted together (`submission`), and their events come back
//! through one bounded channel. A route's renderer (`render`) makes pieces of them, which are
//! sent one by one or joined. Nothing else knows a route: a new one is a wire type, a valid type
//! and a renderer.
//!
//! # Who waits for whom
//! A handler that generates asks first whether there is room, then reads the body, under a bound
//! that all share (`limits`). What a large one takes is done away from the threads that serve
//! streams (`work`). No handler waits for the engine but for its own events. A client that reads
//! slowly fills its channel and then ends its own request; one that goes away drops its submission,
//! which aborts it wherever it is. The engine is behind a trait ([`Generator`]), so that a recorded
//! one or one that fails can stand in its place.
//!
//! Deliberately absent: state between requests (`/v1/responses` is stateless), model management,
//! and any policy about who may run when, which is the scheduler's.

mod app;
mod auth;
mod body;
mod context;
mod ending;
mod error;
mod extract;
mod gate;
mod generator;
mod grammars;
mod in_flight;
mod keys;
mod limits;
mod metrics;
mod observe;
mod openapi;
mod prompt;
mod render;
mod request_id;
mod router;
mod routes;
mod scores;
mod served;
mod server;
mod submission;
mod traces;
mod valid;
mod wire;
mod work;

pub use generator::Generator;
pub use in_flight::InFlight;
pub use keys::ApiKeys;
pub use metrics::Alias;
pub use served::{Defaults, ReasoningField, ReasoningParser, Scheduling, ServedOptions};
pub use server::{Drained, Server, ServerOptions, TlsFiles, bind};
pub use traces::Traces;

use std::sync::Arc;

use axum::Router;
use nvllm_engine::Model;

/// The routes of a server for `model`, whose tokens `generator` makes.
///
/// Errors if a chat template among the options cannot be read.
pub fn router(
    model: &Model,
    options: ServedOptions,
    generator: Arc<dyn Generator>,
) -> nvllm_engine::Result<Router> {
    let alias = options.metrics_alias;
    let served = served::Served::new(model, options)?;
    let metrics = metrics::Metrics::new(served.name(), model.spec.max_positions, alias);
    Ok(router::router(served, generator, metrics))
}
