//! What a server answers before its model is there, and from then on.

use std::sync::OnceLock;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use nvllm_engine::EngineError;
use tower::ServiceExt as _;

use crate::error::ApiError;
use crate::limits::BodyLimits;
use crate::routes::health;

/// The routes, once there are any.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    router: OnceLock<Router>,
}

impl Gate {
    /// Serves these routes from now on; the first call counts.
    pub(crate) fn open(&self, router: Router) {
        // All bodies are read here, under one limit.
        let _ = self.router.set(router.layer(axum::extract::DefaultBodyLimit::disable()));
    }

    /// Answers a request. Its body is read only if there is somebody to read it for.
    pub(crate) async fn answer(&self, request: Request, limits: BodyLimits, log_bodies: bool) -> Response {
        let Some(router) = self.router.get() else { return before(request.uri().path()).await };
        match limits.read(request, log_bodies).await {
            Ok(request) => match router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Err(error) => error.into_response(),
        }
    }
}

/// The answer while nothing is known of the model: the server lives and is not ready.
async fn before(path: &str) -> Response {
    match path {
        "/health" | "/ping" => StatusCode::OK.into_response(),
        "/health/ready" => health::loading(0.0),
        "/version" => health::version().await.into_response(),
        _ => ApiError::from(EngineError::Loading).into_response(),
    }
}
