//! `POST /v1/chat/completions`, and what it makes of a conversation.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use nvllm_engine::Request;

use super::warn_of_unknown;
use crate::app::App;
use crate::body::Body;
use crate::error::ApiError;
use crate::openapi::Errors;
use crate::prompt::truncated;
use crate::render::chat::{ChatRenderer, ChatStream};
use crate::render::{Head, stream};
use crate::request_id::request_id;
use crate::scores::TokenNames;
use crate::submission::Submission;
use crate::valid::chat::ValidChat;
use crate::valid::unsupported;
use crate::wire::chat::{ChatCompletion, ChatRequest};
use crate::wire::tokenize::Rendered;

fn read(bytes: &[u8], app: &App) -> Result<ValidChat, ApiError> {
    let mut body = Body::parse(bytes)?;
    let valid = ValidChat::new(body.read()?, body.read()?, &app.served)?;
    unsupported::check(body.fields())?;
    warn_of_unknown(&body);
    Ok(valid)
}

/// The engine's request, whose prompt is the conversation.
pub(super) fn request(valid: &ValidChat, app: &App) -> Result<Request, ApiError> {
    let prompt = app.served.chat_prompt(&valid.conversation)?;
    let context = app.max_model_len().unwrap_or(usize::MAX);
    let asked = &valid.sampling;
    let prompt = truncated(prompt, asked.truncate, context, asked.request.max_tokens);
    Ok(Request { prompt, ..asked.request.clone() })
}

/// Submits a conversation under `param`'s name, with what renders its answer under `id`.
pub(super) fn start(
    valid: &ValidChat,
    app: &App,
    id: String,
    param: &str,
) -> Result<(Submission, ChatRenderer), ApiError> {
    let asked = &valid.sampling;
    let request = request(valid, app)?;
    let (prompt, n) = (request.prompt.clone(), request.n.unwrap_or(1));
    let top_logprobs = request.logprobs.map_or(0, usize::from);
    let prompt_logprobs = request.prompt_logprobs.is_some();
    let submission = app.submit(vec![request], param)?;
    let names = TokenNames { tokenizer: app.served.tokenizer()?.clone(), as_ids: asked.tokens_as_ids };
    let mut renderer = ChatRenderer::new(Head::new(id, app.served.name()), names, prompt, n);
    renderer.eos.clone_from(&app.served.eos);
    renderer.top_logprobs = top_logprobs;
    renderer.prompt_logprobs = prompt_logprobs;
    renderer.return_token_ids = asked.return_token_ids;
    if valid.echo {
        valid.conversation.last_text().clone_into(&mut renderer.echo);
    }
    Ok((submission, renderer))
}

/// Answer a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", operation_id = "chat_completions", tag = "generate",
    request_body(content = ChatRequest, examples(
        ("whole" = (value = json!({
            "messages": [{ "role": "user", "content": "Where is the Eiffel Tower?" }],
            "max_tokens": 8, "logprobs": true, "top_logprobs": 2, "n": 2, "return_token_ids": true,
        }))),
        ("streamed" = (value = json!({
            "messages": [{ "role": "user", "content": "Hello" }],
            "max_tokens": 8, "stream": true, "stream_options": { "include_usage": true },
        }))),
    )),
    responses(
        (status = 200, description = "The answer; as server-sent events if `stream` is true.",
            content((ChatCompletion = "application/json"), (String = "text/event-stream"))),
        Errors,
    ),
)]
pub(crate) async fn create(State(app): State<App>, bytes: Bytes) -> Result<Response, ApiError> {
    app.check_ready()?;
    let valid = read(&bytes, &app)?;
    let id = request_id("chatcmpl", valid.sampling.request_id.as_deref());
    let (submission, renderer) = start(&valid, &app, id, "messages")?;
    match valid.sampling.stream {
        None => Ok(Json(renderer.whole(submission).await?).into_response()),
        Some(options) => {
            let ids = renderer.prompt.iter().map(|token| token.0).collect();
            let prompt_token_ids = renderer.return_token_ids.then_some(ids);
            Ok(stream(submission, ChatStream { renderer, options, prompt_token_ids }))
        }
    }
}

// As cheap as it can be, and known to nobody but this thread: routers ask before each request.
/// The tokens that a conversation becomes, for routers that choose a worker by them.
#[utoipa::path(
    post, path = "/v1/chat/completions/render", operation_id = "render_chat", tag = "tokens",
    request_body(content = ChatRequest, examples(
        ("whole" = (value = json!({
            "messages": [{ "role": "user", "content": "Where is the Eiffel Tower?" }],
            "max_tokens": 8, "logprobs": true, "top_logprobs": 2, "n": 2, "return_token_ids": true,
        }))),
        ("streamed" = (value = json!({
            "messages": [{ "role": "user", "content": "Hello" }],
            "max_tokens": 8, "stream": true, "stream_options": { "include_usage": true },
        }))),
    )),
    responses((status = 200, description = "The prompt.", body = Rendered), Errors),
)]
pub(crate) async fn render(State(app): State<App>, bytes: Bytes) -> Result<Json<Rendered>, ApiError> {
    let valid = read(&bytes, &app)?;
    let request = request(&valid, &app)?;
    Ok(Json(rendered(&request, &app)))
}

/// A request's prompt as others' `render` routes show it.
pub(super) fn rendered(request: &Request, app: &App) -> Rendered {
    let token_ids: Vec<u32> = request.prompt.iter().map(|token| token.0).collect();
    Rendered { model: app.served.name().to_owned(), token_ids, max_tokens: request.max_tokens }
}
