//! Whether the server lives, and whether it takes requests.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use nvllm_engine::Health;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;

/// Whether a restart would help: an error only once the engine has failed.
pub(crate) async fn live(State(app): State<App>) -> Result<StatusCode, ApiError> {
    match app.generator.health() {
        Health::Failed(reason) => Err(nvllm_engine::EngineError::Stopped { reason }.into()),
        _ => Ok(StatusCode::OK),
    }
}

/// Whether requests are taken, and if not, why.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let status = match app.generator.health() {
        Health::Serving => return Json(json!({ "status": "ready" })).into_response(),
        Health::Loading => return loading(app.generator.load_progress()),
        Health::Draining => json!({ "status": "draining" }),
        Health::Failed(reason) => json!({ "status": "failed", "reason": reason }),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(status)).into_response()
}

/// The answer while the model is being loaded, of which the share `progress` is done.
pub(crate) fn loading(progress: f32) -> Response {
    // Two digits are what a person or a probe can use.
    let progress = (f64::from(progress.clamp(0.0, 1.0)) * 100.0).floor() / 100.0;
    let status = json!({ "status": "loading", "progress": progress });
    (StatusCode::SERVICE_UNAVAILABLE, Json(status)).into_response()
}

/// The version. Routers that find it take the server for one that speaks as vLLM does.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}
