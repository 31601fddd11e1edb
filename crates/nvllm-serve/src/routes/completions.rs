//! `POST /v1/completions`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use nvllm_engine::Request;
use serde_json::{Value, json};

use super::chat::rendered;
use super::read;
use crate::app::App;
use crate::error::ApiError;
use crate::extract::Ready;
use crate::limits::Payload;
use crate::openapi::Errors;
use crate::prompt::truncated;
use crate::render::completions::{CompletionRenderer, CompletionStream};
use crate::render::{Head, stream};
use crate::request_id::request_id;
use crate::scores::TokenNames;
use crate::valid::completions::{Prompt, ValidCompletion};
use crate::valid::sampling::ValidSampling;
use crate::wire::completions::{Completion, CompletionRequest};
use crate::wire::shared::ServerSentEvent;
use crate::wire::tokenize::Rendered;

/// Prompts that can be submitted: their texts are tokens.
struct Prepared {
    /// The engine's, one for each prompt.
    requests: Vec<Request>,
    /// The prompts as they came, where they came as text.
    texts: Vec<Option<String>>,
    sampling: ValidSampling,
    echo: bool,
    prompt_logprobs: bool,
}

impl Prepared {
    fn read(app: &App, bytes: &[u8]) -> Result<Self, ApiError> {
        let valid = read(bytes, |fields, sampling| ValidCompletion::new(fields, sampling, &app.served))?;
        let texts = valid.texts();
        let context = app.max_model_len().unwrap_or(usize::MAX);
        let sampling = &valid.sampling;
        let request = |prompt: &Prompt| {
            let prompt = app.served.text_prompt(prompt.clone(), sampling.add_special_tokens)?;
            let prompt = truncated(prompt, sampling.truncate, context, sampling.request.max_tokens);
            Ok(Request { prompt, ..sampling.request.clone() })
        };
        let requests: Vec<_> = valid.prompts.iter().map(request).collect::<Result<_, ApiError>>()?;
        valid.check_scores(requests.iter().map(|request| request.prompt.len()).sum())?;
        let ValidCompletion { echo, prompt_logprobs, sampling, .. } = valid;
        Ok(Self { requests, texts, sampling, echo, prompt_logprobs })
    }
}

/// Continue prompts.
#[utoipa::path(
    post, path = "/v1/completions", operation_id = "completions", tag = "generate",
    request_body(content = CompletionRequest, examples(
        ("whole" = (value = json!(whole_example()))),
        ("streamed" = (value = json!(streamed_example()))),
    )),
    responses(
        (status = 200, description = "The answers; as server-sent events if `stream` is true.",
            content((Completion = "application/json"), (ServerSentEvent = "text/event-stream"))),
        Errors,
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    _: Ready,
    Payload(bytes): Payload,
) -> Result<Response, ApiError> {
    let Prepared { mut requests, texts, sampling: mut asked, echo, prompt_logprobs } =
        app.work(bytes, Prepared::read).await?;
    if let Some(structured) = asked.structured.take() {
        let grammar = app.served.grammars.compile(structured).await?;
        requests.iter_mut().for_each(|request| request.grammar = Some(grammar.clone()));
    }
    let prompts = requests.iter().map(|request| request.prompt.clone()).collect();
    let submission = app.submit(requests, "prompt")?;
    let head = Head::new(request_id("cmpl", asked.request_id.as_deref()), app.served.name());
    let tokenizer = app.served.tokenizer().ok().cloned();
    let mut renderer = CompletionRenderer::new(head, prompts, asked.request.n.unwrap_or(1));
    renderer.names = tokenizer.map(|tokenizer| TokenNames { tokenizer, as_ids: asked.tokens_as_ids });
    renderer.eos.clone_from(&app.served.eos);
    renderer.echo = echo;
    renderer.texts = texts;
    renderer.logprobs = asked.request.logprobs.is_some();
    renderer.prompt_logprobs = prompt_logprobs;
    renderer.return_token_ids = asked.return_token_ids;
    match asked.stream {
        None => renderer.whole(submission, |answer| Json(answer).into_response()).await,
        Some(options) => Ok(stream(submission, CompletionStream { renderer, options })),
    }
}

/// The tokens that prompts become: a list, as there may be several.
#[utoipa::path(
    post, path = "/v1/completions/render", operation_id = "render_completions", tag = "tokens",
    request_body(content = CompletionRequest, examples(
        ("whole" = (value = json!(whole_example()))),
        ("streamed" = (value = json!(streamed_example()))),
    )),
    responses((status = 200, description = "The prompts.", body = Vec<Rendered>), Errors),
)]
pub(crate) async fn render(
    State(app): State<App>,
    Payload(bytes): Payload,
) -> Result<Json<Vec<Rendered>>, ApiError> {
    let Prepared { requests, .. } = app.work(bytes, Prepared::read).await?;
    Ok(Json(requests.iter().map(|request| rendered(request, &app)).collect()))
}

/// What the description of these routes shows.
fn whole_example() -> Value {
    json!({
        "prompt": ["Once upon", "a time"], "max_tokens": 8, "echo": true, "logprobs": 2,
        "prompt_logprobs": 1, "return_token_ids": true,
    })
}

fn streamed_example() -> Value {
    json!({ "prompt": "Once upon", "max_tokens": 8, "stream": true })
}
