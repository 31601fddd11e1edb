//! Whether the server lives, and whether it takes requests.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use nvllm_engine::Health;

use crate::app::App;
use crate::error::ApiError;
use crate::openapi::Errors;
use crate::wire::info::{Readiness, Version};

/// Whether the server lives: an error only once the engine has failed, when a restart would help.
#[utoipa::path(
    get, path = "/health", operation_id = "health", tag = "server",
    responses((status = 200, description = "It lives."), Errors),
)]
pub(crate) async fn live(State(app): State<App>) -> Result<StatusCode, ApiError> {
    match app.generator.health() {
        Health::Failed(reason) => {
            let error = nvllm_engine::EngineError::Stopped { reason }.into();
            // What probes expect of a server that must be restarted.
            Err(ApiError { status: StatusCode::SERVICE_UNAVAILABLE, ..error })
        }
        _ => Ok(StatusCode::OK),
    }
}

/// As `/health`.
#[utoipa::path(
    method(get, post), path = "/ping", operation_id = "ping", tag = "server",
    responses((status = 200, description = "It lives."), Errors),
)]
pub(crate) async fn ping(state: State<App>) -> Result<StatusCode, ApiError> {
    live(state).await
}

/// Whether requests are taken, and if not, why.
#[utoipa::path(
    get, path = "/health/ready", operation_id = "ready", tag = "server",
    responses(
        (status = 200, description = "They are.", body = Readiness),
        (status = 503, description = "They are not.", body = Readiness),
    ),
)]
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let (status, reason) = match app.generator.health() {
        Health::Serving => ("ready", None),
        Health::Loading => return loading(app.generator.load_progress()),
        Health::Draining => ("draining", None),
        Health::Failed(reason) => ("failed", Some(reason)),
    };
    let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Readiness { status, reason, progress: None })).into_response()
}

/// The answer while the model is being loaded, of which the share `progress` is done.
pub(crate) fn loading(progress: f32) -> Response {
    // Two digits are what a person or a probe can use.
    let progress = (f64::from(progress.clamp(0.0, 1.0)) * 100.0).floor() / 100.0;
    let readiness = Readiness { status: "loading", reason: None, progress: Some(progress) };
    (StatusCode::SERVICE_UNAVAILABLE, Json(readiness)).into_response()
}

// Routers that find it take the server for one that speaks as vLLM does.
/// The server's version.
#[utoipa::path(
    get, path = "/version", tag = "server",
    responses((status = 200, description = "The version.", body = Version), Errors),
)]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}
