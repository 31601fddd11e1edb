//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`: for routers, which ask before each
//! request, and for evaluation harnesses.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::body::Body;
use crate::error::ApiError;
use crate::limits::Payload;
use crate::openapi::Errors;
use crate::valid::chat::Conversation;
use crate::valid::completions::Prompt;
use crate::wire::chat::ChatFields;
use crate::wire::tokenize::{DetokenizeRequest, Detokenized, TokenizeRequest, Tokenized, TokenizerInfo};

/// The tokens of a text or of a conversation.
#[utoipa::path(
    post, path = "/tokenize", tag = "tokens", 
    request_body(content = TokenizeRequest, example = json!({ "prompt": "Once upon", "return_token_strs": true })),
    responses((status = 200, description = "The tokens.", body = Tokenized), Errors),
)]
pub(crate) async fn tokenize(
    State(app): State<App>,
    Payload(bytes): Payload,
) -> Result<Json<Tokenized>, ApiError> {
    app.work(bytes, tokenized).await.map(Json)
}

fn tokenized(app: &App, bytes: &[u8]) -> Result<Tokenized, ApiError> {
    let wire: TokenizeRequest = Body::parse(bytes)?.read()?;
    app.served.check_name(wire.model.as_deref())?;
    let tokens = match (wire.prompt, wire.messages) {
        (Some(prompt), None) => app.served.text_prompt(Prompt::Text(prompt), wire.add_special_tokens)?,
        (None, Some(messages)) => {
            let chat = ChatFields {
                messages: Some(messages),
                tools: wire.tools,
                add_generation_prompt: wire.add_generation_prompt,
                continue_final_message: wire.continue_final_message,
                chat_template_kwargs: wire.chat_template_kwargs,
                ..ChatFields::default()
            };
            app.served.chat_prompt(&Conversation::new(chat, &app.served)?)?
        }
        _ => return Err(ApiError::bad("prompt", "or messages must be given, one of the two")),
    };
    let tokens: Vec<u32> = tokens.into_iter().map(|token| token.0).collect();
    let tokenizer = app.served.tokenizer()?;
    let names = || tokens.iter().map(|&id| tokenizer.token(id).unwrap_or_default()).collect();
    Ok(Tokenized {
        count: tokens.len(),
        max_model_len: app.max_model_len(),
        token_strs: (wire.return_token_strs == Some(true)).then(names),
        tokens,
    })
}

/// The text of tokens.
#[utoipa::path(
    post, path = "/detokenize", tag = "tokens", 
    request_body(content = DetokenizeRequest, example = json!({ "tokens": [1, 2, 3] })),
    responses((status = 200, description = "The text.", body = Detokenized), Errors),
)]
pub(crate) async fn detokenize(
    State(app): State<App>,
    Payload(bytes): Payload,
) -> Result<Json<Detokenized>, ApiError> {
    app.work(bytes, detokenized).await.map(Json)
}

fn detokenized(app: &App, bytes: &[u8]) -> Result<Detokenized, ApiError> {
    let wire: DetokenizeRequest = Body::parse(bytes)?.read()?;
    app.served.check_name(wire.model.as_deref())?;
    let tokens = wire.tokens.ok_or_else(|| ApiError::bad("tokens", "is missing; give token ids"))?;
    let vocab_size = app.served.vocab_size;
    if let Some(at) = tokens.iter().position(|&id| id as usize >= vocab_size) {
        let problem = format!("is {}; the model has tokens 0 to {}", tokens[at], vocab_size - 1);
        return Err(ApiError::bad(format!("tokens[{at}]"), problem));
    }
    Ok(Detokenized { prompt: app.served.tokenizer()?.decode(&tokens, false) })
}

// lm-eval scores on the server only if it finds `eos_token` here.
/// The tokenizer's special tokens, by what they are for.
#[utoipa::path(
    get, path = "/tokenizer_info", operation_id = "tokenizer_info", tag = "tokens",
    responses((status = 200, description = "`eos_token` and others.", body = TokenizerInfo), Errors),
)]
pub(crate) async fn info(State(app): State<App>) -> Result<Json<TokenizerInfo>, ApiError> {
    let tokenizer = app.served.tokenizer()?;
    let mut info: Map<String, Value> = app.served.template().map_or_else(
        |_| Map::new(),
        |template| {
            let named = template.special_tokens();
            named.map(|(name, text)| (name.to_owned(), text.into())).collect()
        },
    );
    let eos = app.served.eos.first().and_then(|token| tokenizer.token(token.0));
    info.entry("eos_token").or_insert_with(|| json!(eos));
    Ok(Json(TokenizerInfo {
        special_tokens: info,
        vocab_size: tokenizer.vocab_size(),
        model_max_length: app.max_model_len(),
    }))
}
