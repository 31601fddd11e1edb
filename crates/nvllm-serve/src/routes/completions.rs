//! `POST /v1/completions`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use nvllm_engine::Request;

use super::chat::rendered;
use super::warn_of_unknown;
use crate::app::App;
use crate::body::Body;
use crate::error::ApiError;
use crate::openapi::Errors;
use crate::prompt::truncated;
use crate::render::completions::{CompletionRenderer, CompletionStream};
use crate::render::{Head, stream};
use crate::request_id::request_id;
use crate::scores::TokenNames;
use crate::valid::completions::ValidCompletion;
use crate::valid::unsupported;
use crate::wire::completions::{Completion, CompletionRequest};
use crate::wire::shared::ServerSentEvent;
use crate::wire::tokenize::Rendered;

fn read(bytes: &[u8], app: &App) -> Result<ValidCompletion, ApiError> {
    let mut body = Body::parse(bytes)?;
    let valid = ValidCompletion::new(body.read()?, body.read()?, &app.served)?;
    unsupported::check(body.fields())?;
    warn_of_unknown(&body);
    Ok(valid)
}

/// The engine's requests, one for each prompt.
fn requests(valid: &ValidCompletion, app: &App) -> Result<Vec<Request>, ApiError> {
    let asked = &valid.sampling;
    let context = app.max_model_len().unwrap_or(usize::MAX);
    let request = |prompt: &crate::valid::completions::Prompt| {
        let prompt = app.served.text_prompt(prompt.clone(), asked.add_special_tokens)?;
        let prompt = truncated(prompt, asked.truncate, context, asked.request.max_tokens);
        Ok(Request { prompt, ..asked.request.clone() })
    };
    let requests: Vec<_> = valid.prompts.iter().map(request).collect::<Result<_, ApiError>>()?;
    valid.check_scores(requests.iter().map(|request| request.prompt.len()).sum())?;
    Ok(requests)
}

/// Continue prompts.
#[utoipa::path(
    post, path = "/v1/completions", operation_id = "completions", tag = "generate",
    request_body(content = CompletionRequest, examples(
        ("whole" = (value = json!({
            "prompt": ["Once upon", "a time"], "max_tokens": 8, "echo": true, "logprobs": 2,
            "prompt_logprobs": 1, "return_token_ids": true,
        }))),
        ("streamed" = (value = json!({ "prompt": "Once upon", "max_tokens": 8, "stream": true }))),
    )),
    responses(
        (status = 200, description = "The answers; as server-sent events if `stream` is true.",
            content((Completion = "application/json"), (ServerSentEvent = "text/event-stream"))),
        Errors,
    ),
)]
pub(crate) async fn create(State(app): State<App>, bytes: Bytes) -> Result<Response, ApiError> {
    app.check_ready()?;
    let valid = read(&bytes, &app)?;
    let asked = &valid.sampling;
    let requests = requests(&valid, &app)?;
    let prompts = requests.iter().map(|request| request.prompt.clone()).collect();
    let submission = app.submit(requests, "prompt")?;
    let head = Head::new(request_id("cmpl", asked.request_id.as_deref()), app.served.name());
    let tokenizer = app.served.tokenizer().ok().cloned();
    let mut renderer = CompletionRenderer::new(head, prompts, asked.request.n.unwrap_or(1));
    renderer.names = tokenizer.map(|tokenizer| TokenNames { tokenizer, as_ids: asked.tokens_as_ids });
    renderer.eos.clone_from(&app.served.eos);
    renderer.echo = valid.echo;
    renderer.texts = valid.texts();
    renderer.logprobs = asked.request.logprobs.is_some();
    renderer.prompt_logprobs = valid.prompt_logprobs;
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
        ("whole" = (value = json!({
            "prompt": ["Once upon", "a time"], "max_tokens": 8, "echo": true, "logprobs": 2,
            "prompt_logprobs": 1, "return_token_ids": true,
        }))),
        ("streamed" = (value = json!({ "prompt": "Once upon", "max_tokens": 8, "stream": true }))),
    )),
    responses((status = 200, description = "The prompts.", body = Vec<Rendered>), Errors),
)]
pub(crate) async fn render(State(app): State<App>, bytes: Bytes) -> Result<Json<Vec<Rendered>>, ApiError> {
    let valid = read(&bytes, &app)?;
    let requests = requests(&valid, &app)?;
    Ok(Json(requests.iter().map(|request| rendered(request, &app)).collect()))
}
