//! `POST /v1/messages`, and the length of its prompt. Clients' headers and query
//! (`anthropic-version`, `?beta=true`) have no effect.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::chat::{Prepared, start};
use super::read;
use crate::app::App;
use crate::error::ApiError;
use crate::extract::Ready;
use crate::limits::Payload;
use crate::openapi::MessagesErrors;
use crate::render::messages::MessageRenderer;
use crate::render::stream;
use crate::request_id::underscored_id;
use crate::valid::messages::{Purpose, ValidMessages};
use crate::wire::messages::{MessageObject, MessageTokens, MessagesError, MessagesRequest};

/// The conversation that a body asks for, and its own stop sequences.
fn prepared(app: &App, bytes: &[u8], purpose: Purpose) -> Result<(Prepared, Vec<String>), ApiError> {
    let valid = read(bytes, |fields, sampling| ValidMessages::new(fields, sampling, purpose, &app.served))?;
    Ok((Prepared::new(&valid.chat, app)?, valid.stop_sequences))
}

/// Answer, in the form of Anthropic.
#[utoipa::path(
    post, path = "/v1/messages", operation_id = "create_message", tag = "generate",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer; as server-sent events if `stream` is true.",
            content((MessageObject = "application/json"), (String = "text/event-stream"))),
        MessagesErrors,
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    _: Ready,
    Payload(bytes): Payload,
) -> Result<Response, ApiError> {
    let prepared = app.work(bytes, |app, bytes| prepared(app, bytes, Purpose::Answer));
    let (chat, stop_sequences) = prepared.await?;
    let id = underscored_id("msg", chat.sampling.request_id.as_deref());
    let streams = chat.sampling.stream.is_some();
    let (submission, renderer) = start(chat, &app, id, "messages").await?;
    let renderer = MessageRenderer::new(renderer, stop_sequences);
    if streams {
        return Ok(stream(submission, renderer));
    }
    Ok(Json(renderer.whole(submission).await?).into_response())
}

/// How many tokens a request's prompt has.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", operation_id = "count_message_tokens", tag = "tokens",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer.",
            body = MessageTokens),
        MessagesErrors,
    ),
)]
pub(crate) async fn count_tokens(
    State(app): State<App>,
    Payload(bytes): Payload,
) -> Result<Json<MessageTokens>, ApiError> {
    let prepared = app.work(bytes, |app, bytes| prepared(app, bytes, Purpose::Count));
    let (chat, _) = prepared.await?;
    Ok(Json(MessageTokens { input_tokens: chat.request.prompt.len() }))
}

/// Gives the errors of these routes Anthropic's form, whatever made them.
pub(crate) async fn errors_in_own_form(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let own = path == "/v1/messages" || path.starts_with("/v1/messages/");
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>().filter(|_| own) else {
        return response;
    };
    // What others have said in headers stays.
    *response.body_mut() = error.response(&MessagesError::from(&error)).into_body();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response
}
