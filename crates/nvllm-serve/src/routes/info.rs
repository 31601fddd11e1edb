//! What a server tells of itself, and the one thing that it can be told: to forget its prefixes.
//!
//! Routers ask for these by two names each, the older of which begins with `get_`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::app::App;
use crate::openapi::Errors;
use crate::wire::info::{ModelInfo, ServerInfo};

/// What is served, and under which limits. sglang's router takes the model's name from here.
#[utoipa::path(
    get, path = "/server_info", operation_id = "server_info", tag = "server",
    responses((status = 200, description = "The server.", body = ServerInfo), Errors),
)]
pub(crate) async fn server_info(State(app): State<App>) -> Json<ServerInfo> {
    Json(ServerInfo {
        served_model_name: app.served.name().to_owned(),
        model_path: app.served.root.clone(),
        tokenizer_path: app.served.root.clone(),
        max_model_len: app.max_model_len(),
        max_num_seqs: app.generator.info().map(|info| info.limits.seqs),
        device: app.generator.info().map(|info| info.backend.device.clone()),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// As `/server_info`.
#[utoipa::path(
    get, path = "/get_server_info", operation_id = "get_server_info", tag = "server",
    responses((status = 200, description = "The server.", body = ServerInfo), Errors),
)]
pub(crate) async fn get_server_info(state: State<App>) -> Json<ServerInfo> {
    server_info(state).await
}

/// The model that is served.
#[utoipa::path(
    get, path = "/model_info", operation_id = "model_info", tag = "server",
    responses((status = 200, description = "The model.", body = ModelInfo), Errors),
)]
pub(crate) async fn model_info(State(app): State<App>) -> Json<ModelInfo> {
    Json(ModelInfo {
        served_model_name: app.served.name().to_owned(),
        model_path: app.served.root.clone(),
        tokenizer_path: app.served.root.clone(),
        is_generation: true,
        max_model_len: app.max_model_len(),
        vocab_size: app.served.vocab_size,
    })
}

/// As `/model_info`.
#[utoipa::path(
    get, path = "/get_model_info", operation_id = "get_model_info", tag = "server",
    responses((status = 200, description = "The model.", body = ModelInfo), Errors),
)]
pub(crate) async fn get_model_info(state: State<App>) -> Json<ModelInfo> {
    model_info(state).await
}

/// Forgets the prefixes that the KV cache has, so that what is measured next computes its prompts.
#[utoipa::path(
    post, path = "/reset_prefix_cache", operation_id = "reset_prefix_cache", tag = "server",
    responses((status = 200, description = "They are forgotten."), Errors),
)]
pub(crate) async fn reset_prefix_cache(State(app): State<App>) -> StatusCode {
    app.generator.reset_prefix_cache();
    StatusCode::OK
}

/// As `/reset_prefix_cache`.
#[utoipa::path(
    method(get, post), path = "/flush_cache", operation_id = "flush_cache", tag = "server",
    responses((status = 200, description = "They are forgotten."), Errors),
)]
pub(crate) async fn flush_cache(state: State<App>) -> StatusCode {
    reset_prefix_cache(state).await
}
