//! What a server answers before its model is there, and from then on.

use std::sync::OnceLock;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use nvllm_engine::EngineError;
use tower::ServiceExt as _;

use crate::error::ApiError;
use crate::routes::{health, page};

/// The routes, once there are any.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    router: OnceLock<Router>,
}

impl Gate {
    /// Serves these routes from now on; the first call counts.
    pub(crate) fn open(&self, router: Router) {
        let _ = self.router.set(router);
    }

    /// Answers a request. Nothing of its body is read here: that is its route's to do, once it is
    /// known that there is somebody to read it for.
    pub(crate) async fn answer(&self, request: Request) -> Response {
        let Some(router) = self.router.get() else { return before(request).await };
        match router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The answer while nothing is known of the model: the server lives and is not ready.
async fn before(request: Request) -> Response {
    let path = request.uri().path();
    match path {
        "/health" | "/ping" => StatusCode::OK.into_response(),
        "/health/ready" => health::loading(0.0),
        "/version" => health::version().await.into_response(),
        _ => page::file_at(path, request.headers())
            .unwrap_or_else(|| ApiError::from(EngineError::Loading).into_response()),
    }
}
