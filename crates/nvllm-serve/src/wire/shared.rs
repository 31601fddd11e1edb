//! Fields that several routes have.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A text, or several.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "give a string or a list of strings")]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// What a stream has beside its text.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk without choices has the usage.
    pub(crate) include_usage: Option<bool>,
    /// Whether every chunk has the usage so far.
    pub(crate) continuous_usage_stats: Option<bool>,
}

/// What a request took, in tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Of the prompts.
    pub(crate) prompt_tokens: usize,
    /// Of all choices.
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    pub(crate) prompt_tokens_details: PromptTokensDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct CompletionTokensDetails {
    /// Completion tokens that are thoughts.
    pub(crate) reasoning_tokens: usize,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct PromptTokensDetails {
    /// Prompt tokens whose keys and values were in the KV cache already.
    pub(crate) cached_tokens: usize,
}

/// An event of a streamed answer: for its description.
#[derive(Serialize, ToSchema)]
pub(crate) struct ServerSentEvent {
    /// `error` for what comes in place of the rest.
    event: Option<String>,
    /// A chunk of the answer as JSON, or `[DONE]`.
    data: String,
}
