//! `POST /v1/embeddings`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use nvllm_engine::Request;

use super::warn_of_unknown;
use crate::app::App;
use crate::body::Body;
use crate::error::ApiError;
use crate::openapi::Errors;
use crate::prompt::truncated;
use crate::render::embeddings::EmbeddingRenderer;
use crate::valid::completions::Prompt;
use crate::valid::embeddings::ValidEmbeddings;
use crate::wire::embeddings::{EmbeddingList, EmbeddingRequest, EmbeddingUsage};

/// The engine's requests, one for each input.
fn requests(valid: &ValidEmbeddings, app: &App) -> Result<Vec<Request>, ApiError> {
    let context = app.max_model_len().unwrap_or(usize::MAX);
    let request = |input: &Prompt| {
        // An embedding model's end token comes from its tokenizer's post-processor.
        let prompt = app.served.text_prompt(input.clone(), valid.add_special_tokens)?;
        // Nothing is generated: the input may have all of the context.
        let prompt = truncated(prompt, valid.truncate, context, Some(0));
        Ok(Request { prompt, embed: true, ..Request::default() })
    };
    valid.inputs.iter().map(request).collect()
}

/// The hidden state of each input's last token, brought to length 1.
#[utoipa::path(
    post, path = "/v1/embeddings", operation_id = "embeddings", tag = "generate",
    request_body(content = EmbeddingRequest, examples(
        ("whole" = (value = json!({ "input": ["Once upon", "a time"], "dimensions": 64 }))),
        ("base64" = (value = json!({ "input": "Once upon", "encoding_format": "base64" }))),
    )),
    responses((status = 200, description = "The embeddings.", body = EmbeddingList), Errors),
)]
pub(crate) async fn create(State(app): State<App>, bytes: Bytes) -> Result<Json<EmbeddingList>, ApiError> {
    app.check_ready()?;
    let mut body = Body::parse(&bytes)?;
    let valid = ValidEmbeddings::new(body.read()?, &app.served)?;
    warn_of_unknown(&body);
    let requests = requests(&valid, &app)?;
    let num_tokens = requests.iter().map(|request| request.prompt.len()).sum();
    let submission = app.submit(requests, "input")?;
    let renderer = EmbeddingRenderer { dimensions: valid.dimensions, base64: valid.base64 };
    Ok(Json(EmbeddingList {
        object: "list",
        data: renderer.whole(submission).await?,
        model: app.served.name().to_owned(),
        usage: EmbeddingUsage { prompt_tokens: num_tokens, total_tokens: num_tokens },
    }))
}
