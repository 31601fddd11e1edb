//! The table of routes, and what every request to them goes through.

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::ApiError;
use crate::generator::Generator;
use crate::metrics::{self, Metrics};
use crate::openapi::{self, Document};
use crate::routes;
use crate::served::Served;

/// All routes, with their description.
fn routes() -> OpenApiRouter<App> {
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
pub(crate) fn router(served: Served, generator: Arc<dyn Generator>, metrics: Metrics) -> Router {
    let (router, description) = routes().split_for_parts();
    let app = App::new(served, generator, metrics, Document::new(description));
    let not_stored = routes::responses::not_stored;
    router
        // Not described: they say that there is nothing here.
        .route("/v1/responses/{id}", get(not_stored).delete(not_stored))
        .route("/v1/responses/{id}/cancel", post(not_stored))
        .route("/v1/responses/{id}/input_items", get(not_stored))
        .fallback(routes::not_found)
        .method_not_allowed_fallback(routes::method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&app.metrics), metrics::http::count))
        // A server has it too, for the errors that are made around these routes: a missing key, a
        // model that is not there yet. Here it is for whoever uses the routes without a server.
        .layer(from_fn(routes::messages::errors_in_own_form))
        .with_state(app)
}

/// The answer of a handler that panicked, which the panic hook has told of.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::internal("the server failed at this request; its log says where").into_response()
}
