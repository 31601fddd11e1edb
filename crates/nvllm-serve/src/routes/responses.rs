//! `POST /v1/responses`, and the length of its prompt.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::chat::{Prepared, start};
use super::read;
use crate::app::App;
use crate::error::ApiError;
use crate::extract::{InPath, Ready};
use crate::limits::Payload;
use crate::openapi::Errors;
use crate::render::responses::ResponseRenderer;
use crate::render::stream;
use crate::request_id::underscored_id;
use crate::valid::responses::{ValidResponse, in_own_words};
use crate::wire::responses::{Echoed, ResponseInputTokens, ResponseObject, ResponseRequest};

/// The conversation that a body asks for, and what the answer repeats of it.
fn prepared(app: &App, bytes: &[u8]) -> Result<(Prepared, Echoed), ApiError> {
    let valid = read(bytes, |fields, sampling| ValidResponse::new(fields, sampling, &app.served))?;
    Ok((Prepared::new(&valid.chat, app).map_err(in_own_words)?, valid.echoed))
}

/// Answer, in the form of Responses. Nothing is stored.
#[utoipa::path(
    post, path = "/v1/responses", operation_id = "create_response", tag = "generate",
    request_body = ResponseRequest,
    responses(
        (status = 200, description = "The answer; as server-sent events if `stream` is true.",
            content((ResponseObject = "application/json"), (String = "text/event-stream"))),
        Errors,
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    _: Ready,
    Payload(bytes): Payload,
) -> Result<Response, ApiError> {
    let (chat, echoed) = app.work(bytes, prepared).await?;
    let id = underscored_id("resp", chat.sampling.request_id.as_deref());
    let streams = chat.sampling.stream.is_some();
    let (submission, renderer) = start(chat, &app, id, "input").await.map_err(in_own_words)?;
    let renderer = ResponseRenderer::new(renderer, echoed);
    if streams {
        return Ok(stream(submission, renderer));
    }
    Ok(Json(renderer.whole(submission).await?).into_response())
}

/// How many tokens a request's prompt has.
#[utoipa::path(
    post, path = "/v1/responses/input_tokens", operation_id = "count_response_tokens", tag = "tokens",
    request_body = ResponseRequest,
    responses(
        (status = 200, description = "The answer.",
            body = ResponseInputTokens),
        Errors,
    ),
)]
pub(crate) async fn input_tokens(
    State(app): State<App>,
    Payload(bytes): Payload,
) -> Result<Json<ResponseInputTokens>, ApiError> {
    let (chat, _) = app.work(bytes, prepared).await?;
    let input_tokens = chat.request.prompt.len();
    Ok(Json(ResponseInputTokens { object: "response.input_tokens", input_tokens }))
}

/// What asks for an earlier response.
pub(crate) async fn not_stored(InPath(id): InPath) -> ApiError {
    let message =
        format!("there is no response {id:?}: responses are not stored here; keep what was answered");
    ApiError::new(StatusCode::NOT_FOUND, message).about("response_id")
}
