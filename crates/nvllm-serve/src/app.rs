//! What all routes share, and the table of routes.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use nvllm_engine::{EngineError, Health, Request};

use crate::error::ApiError;
use crate::generator::Generator;
use crate::render::now;
use crate::routes;
use crate::served::Served;
use crate::submission::Submission;

/// A server's state: its model, and what generates.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) served: Arc<Served>,
    pub(crate) generator: Arc<dyn Generator>,
    /// Seconds since 1970 when it was made.
    pub(crate) created: u64,
}

impl App {
    pub(crate) fn new(served: Served, generator: Arc<dyn Generator>) -> Self {
        Self { served: Arc::new(served), generator, created: now() }
    }

    /// Errors if no request would be taken now: said before a body is looked at, as routers send
    /// what was refused again and again.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        match self.generator.health() {
            Health::Serving => Ok(()),
            Health::Loading => Err(EngineError::Loading.into()),
            Health::Draining => Err(EngineError::Draining.into()),
            Health::Failed(reason) => Err(EngineError::Stopped { reason }.into()),
        }
    }

    /// Tokens of prompt and answer together; none before the model is loaded.
    pub(crate) fn max_model_len(&self) -> Option<usize> {
        self.generator.info().map(|info| info.limits.context)
    }

    /// Submits one request for each prompt, under `param`'s name if the prompt is at fault.
    pub(crate) fn submit(&self, requests: Vec<Request>, param: &str) -> Result<Submission, ApiError> {
        Submission::new(&self.generator, requests).map_err(|error| {
            if error.status == axum::http::StatusCode::BAD_REQUEST { error.about(param) } else { error }
        })
    }
}

/// All routes.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(routes::chat::create))
        .route("/v1/chat/completions/render", post(routes::chat::render))
        .route("/v1/completions", post(routes::completions::create))
        .route("/v1/completions/render", post(routes::completions::render))
        .route("/v1/responses", post(routes::responses::create))
        .route("/v1/responses/input_tokens", post(routes::responses::input_tokens))
        .route("/v1/responses/{id}", get(routes::responses::not_stored).delete(routes::responses::not_stored))
        .route("/v1/responses/{id}/cancel", post(routes::responses::not_stored))
        .route("/v1/responses/{id}/input_items", get(routes::responses::not_stored))
        .route("/v1/messages", post(routes::messages::create))
        .route("/v1/messages/count_tokens", post(routes::messages::count_tokens))
        .route("/v1/models", get(routes::models::list))
        .route("/v1/models/{*model}", get(routes::models::get))
        .route("/tokenize", post(routes::tokenize::tokenize))
        .route("/detokenize", post(routes::tokenize::detokenize))
        .route("/tokenizer_info", get(routes::tokenize::info))
        .route("/health", get(routes::health::live))
        .route("/health/ready", get(routes::health::ready))
        .route("/ping", get(routes::health::live).post(routes::health::live))
        .route("/version", get(routes::health::version))
        .fallback(routes::not_found)
        .method_not_allowed_fallback(routes::method_not_allowed)
        .layer(axum::middleware::from_fn(routes::messages::errors_in_own_form))
        .with_state(app)
}
