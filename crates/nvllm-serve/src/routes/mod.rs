//! The handlers, one file a route: body to types, types to a submission, a submission to an answer.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod health;
pub(crate) mod info;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod responses;
pub(crate) mod tokenize;

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
    unsupported::check(body.fields())?;
    warn_of_unknown(&body);
    Ok(valid)
}

/// Says once for each name which fields of bodies are not known and have no effect.
fn warn_of_unknown(body: &Body) {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};
    /// Names that were said, and no more than this many: a client may make up as many as it likes.
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    const MOST: usize = 256;
    /// Bytes of a name that is worth a line.
    const LONGEST: usize = 64;
    for name in
        body.left_over().filter(|name| name.len() <= LONGEST).filter(|name| !unsupported::is_known(name))
    {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < MOST && said.insert(name.clone()) {
            tracing::warn!("field {name:?} of a request is not known and has no effect");
        }
    }
}
