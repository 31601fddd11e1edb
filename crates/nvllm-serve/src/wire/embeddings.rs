//! `/v1/embeddings`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::completions::Prompts;

/// Texts, or tokens, whose embeddings are asked for.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct EmbeddingRequest {
    pub(crate) model: Option<String>,
    pub(crate) input: Option<Prompts>,
    /// Numbers of each embedding: the first so many, brought to length 1 again.
    pub(crate) dimensions: Option<i64>,
    /// `float`, or `base64`: the numbers' bytes, f32 in little endian.
    pub(crate) encoding_format: Option<String>,
    /// Keep this many of an input's last tokens, or, if -1, as many as the context has.
    pub(crate) truncate_prompt_tokens: Option<i64>,
    /// Add what the tokenizer puts around a text; yes if not given.
    pub(crate) add_special_tokens: Option<bool>,
}

/// The embeddings, in the order of the inputs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingList {
    /// `list`.
    pub(crate) object: &'static str,
    pub(crate) data: Vec<EmbeddingData>,
    pub(crate) model: String,
    pub(crate) usage: EmbeddingUsage,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingData {
    /// `embedding`.
    pub(crate) object: &'static str,
    /// Of the input.
    pub(crate) index: usize,
    pub(crate) embedding: Vector,
}

/// Of length 1.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

/// What a request took, in tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingUsage {
    /// Of all inputs.
    pub(crate) prompt_tokens: usize,
    pub(crate) total_tokens: usize,
}
