//! `POST /v1/messages`, and the length of its prompt. Clients' headers and query
//! (`anthropic-version`, `?beta=true`) have no effect.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::chat::{request, start};
use super::warn_of_unknown;
use crate::app::App;
use crate::body::Body;
use crate::error::ApiError;
use crate::openapi::MessagesErrors;
use crate::render::messages::MessageRenderer;
use crate::render::stream;
use crate::request_id::underscored_id;
use crate::valid::messages::{Purpose, ValidMessages};
use crate::valid::unsupported;
use crate::wire::messages::{MessageObject, MessageTokens, MessagesError, MessagesRequest};

fn read(bytes: &[u8], purpose: Purpose, app: &App) -> Result<ValidMessages, ApiError> {
    let mut body = Body::parse(bytes)?;
    let valid = ValidMessages::new(body.read()?, body.read()?, purpose, &app.served)?;
    unsupported::check(body.fields())?;
    warn_of_unknown(&body);
    Ok(valid)
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
pub(crate) async fn create(State(app): State<App>, bytes: Bytes) -> Result<Response, ApiError> {
    app.check_ready()?;
    let ValidMessages { chat, stop_sequences } = read(&bytes, Purpose::Answer, &app)?;
    let id = underscored_id("msg", chat.sampling.request_id.as_deref());
    let (submission, renderer) = start(&chat, &app, id, "messages")?;
    let renderer = MessageRenderer::new(renderer, stop_sequences);
    match chat.sampling.stream {
        None => Ok(Json(renderer.whole(submission).await?).into_response()),
        Some(_) => Ok(stream(submission, renderer)),
    }
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
    bytes: Bytes,
) -> Result<Json<MessageTokens>, ApiError> {
    let valid = read(&bytes, Purpose::Count, &app)?;
    Ok(Json(MessageTokens { input_tokens: request(&valid.chat, &app)?.prompt.len() }))
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
