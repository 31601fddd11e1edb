//! `GET /metrics`, and the load as routers ask for it.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::app::App;
use crate::error::ApiError;
use crate::openapi::Errors;
use crate::wire::info::{Load, Loads, ServerLoad};

/// All metrics, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "server",
    responses((status = 200, description = "Prometheus' text format.", body = String, content_type = "text/plain"), Errors),
)]
pub(crate) async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let text = app.metrics.text(&*app.generator).map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

/// Requests that are being answered.
#[utoipa::path(
    get, path = "/load", operation_id = "load", tag = "server",
    responses((status = 200, description = "The load.", body = ServerLoad), Errors),
)]
pub(crate) async fn load(State(app): State<App>) -> Json<ServerLoad> {
    Json(ServerLoad { server_load: app.metrics.num_open() })
}

/// The load in figures that SMG chooses a worker by.
#[utoipa::path(
    get, path = "/v1/loads", operation_id = "loads", tag = "server",
    responses((status = 200, description = "The load.", body = Loads), Errors),
)]
pub(crate) async fn loads(State(app): State<App>) -> Json<Loads> {
    let stats = app.generator.stats();
    let limits = app.generator.info().map(|info| &info.limits);
    let block_len = limits.map_or(0, |limits| limits.block_len);
    let max_running_requests = limits.map_or(0, |limits| limits.seqs);
    let load = Load {
        dp_rank: 0,
        num_running_reqs: stats.num_running,
        num_waiting_reqs: stats.num_waiting,
        num_waiting_uncached_tokens: stats.num_waiting_tokens,
        num_total_reqs: stats.num_running + stats.num_waiting,
        num_used_tokens: stats.used_blocks * block_len,
        max_total_num_tokens: stats.total_blocks * block_len,
        token_usage: share(stats.used_blocks as f64, stats.total_blocks as f64),
        gen_throughput: app.metrics.throughput(stats.num_output_tokens),
        cache_hit_rate: share(stats.num_cached_tokens as f64, stats.num_queried_tokens as f64),
        utilization: share(stats.num_running as f64, max_running_requests as f64),
        max_running_requests,
    };
    Json(Loads { loads: vec![load] })
}

/// `part` of `whole`; 0 of nothing.
fn share(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}
