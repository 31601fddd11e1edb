//! Inputs to be embedded.

use super::completions::{Prompt, prompts};
use super::sampling::{Truncate, truncate};
use super::within;
use crate::error::ApiError;
use crate::served::Served;
use crate::wire::embeddings::EmbeddingRequest;

/// A request of `/v1/embeddings`.
#[derive(Clone, Debug)]
pub(crate) struct ValidEmbeddings {
    /// At least one.
    pub(crate) inputs: Vec<Prompt>,
    /// Numbers of each embedding.
    pub(crate) dimensions: usize,
    /// Whether the numbers are sent as base64.
    pub(crate) base64: bool,
    pub(crate) truncate: Option<Truncate>,
    pub(crate) add_special_tokens: Option<bool>,
}

impl ValidEmbeddings {
    /// Errors with the first field that cannot be met; with the model, if it makes no embeddings.
    pub(crate) fn new(wire: EmbeddingRequest, served: &Served) -> Result<Self, ApiError> {
        served.check_name(wire.model.as_deref())?;
        let Some(size) = served.embedding_size else {
            let problem = "makes no embeddings: this server was not started with --embeddings";
            return Err(ApiError::bad("model", problem));
        };
        let dimensions = within("dimensions", wire.dimensions, 1, size as i64)?;
        let base64 = match wire.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                return Err(ApiError::bad("encoding_format", format!("is {other:?}; give float or base64")));
            }
        };
        Ok(Self {
            inputs: prompts("input", wire.input)?,
            dimensions: dimensions.unwrap_or(size),
            base64,
            truncate: truncate(wire.truncate_prompt_tokens)?,
            add_special_tokens: wire.add_special_tokens,
        })
    }
}
