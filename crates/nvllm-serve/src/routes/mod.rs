//! The handlers, one file a route: body to types, types to a submission, a submission to an answer.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod health;
pub(crate) mod info;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod page;
pub(crate) mod responses;
pub(crate) mod tokenize;

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode, Uri};
use serde::de::DeserializeOwned;

use crate::body::Body;
use crate::error::ApiError;
use crate::valid::unsupported;
use crate::wire::sampling::SamplingFields;

pub(crate) async fn not_found(method: Method, uri: Uri) -> ApiError {
    let message = format!("there is no {method} {}; /openapi.json lists what there is", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, message)
}

pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}; /openapi.json lists what it takes", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// What `valid` makes of a body's two parts: those of its route, and those that all routes that
/// generate have.
fn read<F: DeserializeOwned, V>(
    bytes: &[u8],
    valid: impl FnOnce(F, SamplingFields) -> Result<V, ApiError>,
) -> Result<V, ApiError> {
    let mut body = Body::parse(bytes)?;
    let valid = valid(body.read()?, body.read()?)?;
    let left_over: BTreeSet<String> = body.left_over().collect();
    unsupported::check(body.fields(), |name| !left_over.contains(name))?;
    warn_of_unknown(&body);
    Ok(valid)
}

/// Fields of a body that have no effect and are not known to have none.
fn unknown(body: &Body) -> impl Iterator<Item = String> {
    body.left_over().filter(|name| !unsupported::is_known(name))
}

/// Says once for each name which fields of bodies are not known and have no effect.
fn warn_of_unknown(body: &Body) {
    use std::sync::{Mutex, PoisonError};
    /// Names that were said, and no more than this many: a client may make up as many as it likes.
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    const MOST: usize = 256;
    /// Bytes of a name that is worth a line.
    const LONGEST: usize = 64;
    for name in unknown(body).filter(|name| name.len() <= LONGEST) {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < MOST && said.insert(name.clone()) {
            tracing::warn!("field {name:?} of a request is not known and has no effect");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::chat::ChatFields;
    use crate::wire::completions::CompletionFields;

    /// What of a body is warned of.
    fn unknown_in<T: DeserializeOwned>(json: &str) -> Vec<String> {
        let mut body = Body::parse(json.as_bytes()).unwrap();
        body.read::<T>().unwrap();
        body.read::<SamplingFields>().unwrap();
        unknown(&body).collect()
    }

    /// As vllm-router 0.1.17 and sglang-router 0.3.2 send them on.
    #[test]
    fn nobody_is_warned_of_what_routers_fill_in() {
        let chat = r#"{"messages": [{"role": "user", "content": "hi"}], "model": "tiny", "stream": false, "max_tokens": 3,
            "max_completion_tokens": 3, "logprobs": false, "no_stop_trim": false, "ignore_eos": false,
            "continue_final_message": false, "skip_special_tokens": true, "separate_reasoning": true,
            "stream_reasoning": true, "return_hidden_states": false, "include_reasoning": true}"#;
        let completion = r#"{"model": "tiny", "prompt": "hi", "max_tokens": 3, "stream": false, "echo": false,
            "no_stop_trim": false, "ignore_eos": false, "skip_special_tokens": true, "return_hidden_states": false}"#;
        assert_eq!(unknown_in::<ChatFields>(chat), [""; 0]);
        assert_eq!(unknown_in::<CompletionFields>(completion), [""; 0]);
        assert_eq!(unknown_in::<CompletionFields>(r#"{"prompt": "hi", "mine": 1}"#), ["mine"]);
    }
}
