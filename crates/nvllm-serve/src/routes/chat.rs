//! `POST /v1/chat/completions`, and what it makes of a conversation.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use nvllm_engine::Request;
use nvllm_engine::answer::prompt_opens_thinking;
use serde_json::{Value, json};

use super::read;
use crate::app::App;
use crate::error::ApiError;
use crate::extract::Ready;
use crate::limits::Payload;
use crate::openapi::Errors;
use crate::prompt::truncated;
use crate::render::chat::{ChatRenderer, ChatStream};
use crate::render::{Head, Reading, stream};
use crate::request_id::request_id;
use crate::scores::TokenNames;
use crate::submission::Submission;
use crate::valid::chat::ValidChat;
use crate::valid::sampling::ValidSampling;
use crate::valid::tools::CHAT;
use crate::wire::chat::{ChatCompletion, ChatRequest};
use crate::wire::shared::ServerSentEvent;
use crate::wire::tokenize::Rendered;

/// A conversation that can be submitted: its text is tokens.
pub(super) struct Prepared {
    /// The engine's, whose prompt is the conversation.
    pub(super) request: Request,
    pub(super) sampling: ValidSampling,
    /// What the answer begins with.
    echo: String,
    reading: Reading,
}

impl Prepared {
    pub(super) fn new(valid: &ValidChat, app: &App) -> Result<Self, ApiError> {
        let prompt = app.served.chat_prompt(&valid.conversation)?;
        let context = app.max_model_len().unwrap_or(usize::MAX);
        let sampling = valid.sampling.clone();
        let prompt = truncated(prompt, sampling.truncate, context, sampling.request.max_tokens);
        let opens = prompt_opens_thinking(app.served.tokenizer()?, &prompt);
        let reading = Reading { prompt_opens_thinking: opens, ..valid.reading.clone() };
        let request = Request { prompt, ..sampling.request.clone() };
        let echo = if valid.echo { valid.conversation.last_text() } else { "" }.to_owned();
        Ok(Self { request, sampling, echo, reading })
    }

    /// The prompt and parameters that a body of this route asks for.
    fn read(app: &App, bytes: &[u8]) -> Result<Self, ApiError> {
        Self::new(&read(bytes, |chat, sampling| ValidChat::new(chat, sampling, CHAT, &app.served))?, app)
    }
}

/// Submits a conversation under `param`'s name, with what renders its answer under `id`.
pub(super) async fn start(
    Prepared { mut request, sampling, echo, reading }: Prepared,
    app: &App,
    id: String,
    param: &str,
) -> Result<(Submission, ChatRenderer), ApiError> {
    if let Some(structured) = sampling.structured {
        request.grammar = Some(app.served.grammars.compile(structured).await?);
    }
    let (prompt, n) = (request.prompt.clone(), request.n.unwrap_or(1));
    let top_logprobs = request.logprobs.map_or(0, usize::from);
    let prompt_logprobs = request.prompt_logprobs.is_some();
    let submission = app.submit(vec![request], param)?;
    let names = TokenNames { tokenizer: app.served.tokenizer()?.clone(), as_ids: sampling.tokens_as_ids };
    let head = Head::new(id, app.served.name());
    let mut renderer = ChatRenderer::new(head, names, prompt, n, &reading);
    renderer.reasoning_field = app.served.reasoning_field;
    renderer.eos.clone_from(&app.served.eos);
    renderer.top_logprobs = top_logprobs;
    renderer.prompt_logprobs = prompt_logprobs;
    renderer.return_token_ids = sampling.return_token_ids;
    renderer.echo = echo;
    Ok((submission, renderer))
}

/// Answer a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", operation_id = "chat_completions", tag = "generate",
    request_body(content = ChatRequest, examples(
        ("whole" = (value = json!(whole_example()))),
        ("streamed" = (value = json!(streamed_example()))),
    )),
    responses(
        (status = 200, description = "The answer; as server-sent events if `stream` is true.",
            content((ChatCompletion = "application/json"), (ServerSentEvent = "text/event-stream"))),
        Errors,
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    _: Ready,
    Payload(bytes): Payload,
) -> Result<Response, ApiError> {
    let chat = app.work(bytes, Prepared::read).await?;
    let id = request_id("chatcmpl", chat.sampling.request_id.as_deref());
    let options = chat.sampling.stream;
    let (submission, renderer) = start(chat, &app, id, "messages").await?;
    match options {
        None => Ok(Json(renderer.whole(submission).await?).into_response()),
        Some(options) => {
            let ids = renderer.prompt.iter().map(|token| token.0).collect();
            let prompt_token_ids = renderer.return_token_ids.then_some(ids);
            Ok(stream(submission, ChatStream { renderer, options, prompt_token_ids }))
        }
    }
}

// Neither queued nor counted as a request: routers ask before each.
/// The tokens that a conversation becomes, for routers that choose a worker by them.
#[utoipa::path(
    post, path = "/v1/chat/completions/render", operation_id = "render_chat", tag = "tokens",
    request_body(content = ChatRequest, examples(
        ("whole" = (value = json!(whole_example()))),
        ("streamed" = (value = json!(streamed_example()))),
    )),
    responses((status = 200, description = "The prompt.", body = Rendered), Errors),
)]
pub(crate) async fn render(
    State(app): State<App>,
    Payload(bytes): Payload,
) -> Result<Json<Rendered>, ApiError> {
    let chat = app.work(bytes, Prepared::read).await?;
    Ok(Json(rendered(&chat.request, &app)))
}

/// A request's prompt as others' `render` routes show it.
pub(super) fn rendered(request: &Request, app: &App) -> Rendered {
    let token_ids: Vec<u32> = request.prompt.iter().map(|token| token.0).collect();
    Rendered { model: app.served.name().to_owned(), token_ids, max_tokens: request.max_tokens }
}

/// What the description of these routes shows.
fn whole_example() -> Value {
    json!({
        "messages": [{ "role": "user", "content": "Where is the Eiffel Tower?" }],
        "max_tokens": 8, "logprobs": true, "top_logprobs": 2, "n": 2, "return_token_ids": true,
    })
}

fn streamed_example() -> Value {
    json!({
        "messages": [{ "role": "user", "content": "Hello" }],
        "max_tokens": 8, "stream": true, "stream_options": { "include_usage": true },
    })
}
