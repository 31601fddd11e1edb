//! What all routes share, and the table of routes.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use nvllm_engine::{EngineError, Health, Request};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::{ApiError, Refusal};
use crate::generator::Generator;
use crate::metrics::{self, Metrics};
use crate::openapi;
use crate::render::now;
use crate::routes;
use crate::served::Served;
use crate::submission::Submission;
use crate::work::Workers;

/// A server's state: its model, and what generates.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) served: Arc<Served>,
    pub(crate) generator: Arc<dyn Generator>,
    pub(crate) metrics: Arc<Metrics>,
    /// Seconds since 1970 when it was made.
    pub(crate) created: u64,
    pub(crate) workers: Workers,
}

impl App {
    pub(crate) fn new(served: Served, generator: Arc<dyn Generator>, metrics: Metrics) -> Self {
        let (served, metrics) = (Arc::new(served), Arc::new(metrics));
        Self { served, generator, metrics, created: now(), workers: Workers::default() }
    }

    /// Errors if no request would be taken now: said before a body is looked at, as routers send
    /// what was refused again and again.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        match self.generator.health() {
            Health::Serving if self.generator.is_full() => {
                let message = "as many requests wait as may (--max-queued-requests); send it again later";
                Err(ApiError::refused(StatusCode::TOO_MANY_REQUESTS, Refusal::QueueFull, message))
            }
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
        Submission::new(&self.generator, requests, &self.metrics)
            .map_err(|error| if error.status == StatusCode::BAD_REQUEST { error.about(param) } else { error })
    }
}

/// All routes, with their description.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(routes::chat::create))
        .routes(routes!(routes::chat::render))
        .routes(routes!(routes::completions::create))
        .routes(routes!(routes::completions::render))
        .routes(routes!(routes::embeddings::create))
        .routes(routes!(routes::responses::create))
        .routes(routes!(routes::responses::input_tokens))
        .routes(routes!(routes::messages::create))
        .routes(routes!(routes::messages::count_tokens))
        .routes(routes!(routes::models::list))
        .routes(routes!(routes::models::get))
        .routes(routes!(routes::tokenize::tokenize))
        .routes(routes!(routes::tokenize::detokenize))
        .routes(routes!(routes::tokenize::info))
        .routes(routes!(routes::health::live))
        .routes(routes!(routes::health::ready))
        .routes(routes!(routes::health::ping))
        .routes(routes!(routes::health::version))
        .routes(routes!(routes::metrics::metrics))
        .routes(routes!(routes::metrics::load))
        .routes(routes!(routes::metrics::loads))
        .routes(routes!(routes::info::server_info))
        .routes(routes!(routes::info::get_server_info))
        .routes(routes!(routes::info::model_info))
        .routes(routes!(routes::info::get_model_info))
        .routes(routes!(routes::info::reset_prefix_cache))
        .routes(routes!(routes::info::flush_cache))
        .routes(routes!(routes::page::index))
        .routes(routes!(routes::page::file))
        .routes(routes!(openapi::document))
        .routes(routes!(openapi::docs))
}

/// What answers requests.
pub(crate) fn router(app: App) -> Router {
    let not_stored = routes::responses::not_stored;
    Router::from(routes())
        // Not described: they say that there is nothing here.
        .route("/v1/responses/{id}", get(not_stored).delete(not_stored))
        .route("/v1/responses/{id}/cancel", post(not_stored))
        .route("/v1/responses/{id}/input_items", get(not_stored))
        .fallback(routes::not_found)
        .method_not_allowed_fallback(routes::method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), metrics::http::count))
        // A server has it too, for the errors that are made around these routes: a missing key, a
        // model that is not there yet. Here it is for whoever uses the routes without a server.
        .layer(from_fn(routes::messages::errors_in_own_form))
        .with_state(app)
}

/// The answer of a handler that panicked, which the panic hook has told of.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::internal("the server failed at this request; its log says where").into_response()
}
