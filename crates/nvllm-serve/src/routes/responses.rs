//! `POST /v1/responses`, and the length of its prompt.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::chat::{request, start};
use super::warn_of_unknown;
use crate::app::App;
use crate::body::Body;
use crate::error::ApiError;
use crate::openapi::Errors;
use crate::render::responses::ResponseRenderer;
use crate::render::stream;
use crate::request_id::underscored_id;
use crate::valid::responses::{ValidResponse, in_own_words};
use crate::valid::unsupported;
use crate::wire::responses::{ResponseInputTokens, ResponseObject, ResponseRequest};

fn read(bytes: &[u8], app: &App) -> Result<ValidResponse, ApiError> {
    let mut body = Body::parse(bytes)?;
    let valid = ValidResponse::new(body.read()?, body.read()?, &app.served)?;
    unsupported::check(body.fields())?;
    warn_of_unknown(&body);
    Ok(valid)
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
pub(crate) async fn create(State(app): State<App>, bytes: Bytes) -> Result<Response, ApiError> {
    app.check_ready()?;
    let ValidResponse { chat, echoed } = read(&bytes, &app)?;
    let id = underscored_id("resp", chat.sampling.request_id.as_deref());
    let (submission, renderer) = start(&chat, &app, id, "input").map_err(in_own_words)?;
    let renderer = ResponseRenderer::new(renderer, underscored_id("msg", None), echoed);
    match chat.sampling.stream {
        None => Ok(Json(renderer.whole(submission).await?).into_response()),
        Some(_) => Ok(stream(submission, renderer)),
    }
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
    bytes: Bytes,
) -> Result<Json<ResponseInputTokens>, ApiError> {
    let valid = read(&bytes, &app)?;
    let request = request(&valid.chat, &app).map_err(in_own_words)?;
    Ok(Json(ResponseInputTokens { object: "response.input_tokens", input_tokens: request.prompt.len() }))
}

/// What asks for an earlier response.
pub(crate) async fn not_stored(Path(id): Path<String>) -> ApiError {
    let message =
        format!("there is no response {id:?}: responses are not stored here; keep what was answered");
    ApiError::new(StatusCode::NOT_FOUND, message).about("response_id")
}
