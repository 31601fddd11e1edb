//! `/v1/completions`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::chat::StopReason;
use super::sampling::SamplingFields;
use super::shared::Usage;

/// A request's body: for its description; it is read part by part.
#[derive(Serialize, ToSchema)]
pub(crate) struct CompletionRequest {
    #[serde(flatten)]
    completion: CompletionFields,
    #[serde(flatten)]
    sampling: SamplingFields,
}

/// What is continued.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[schema(title = "Completion")]
pub(crate) struct CompletionFields {
    pub(crate) prompt: Option<Prompts>,
    /// Whether the answer begins with the prompt.
    pub(crate) echo: Option<bool>,
    /// Log-probabilities of the answer's tokens and of this many of the likeliest.
    pub(crate) logprobs: Option<i64>,
}

/// A text, several texts, the tokens of one, or of several.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(
    untagged,
    expecting = "give a string, a list of strings, a list of token ids, or a list of such lists"
)]
pub(crate) enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// The answer, or a piece of a streamed one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion<'a> {
    pub(crate) id: &'a str,
    /// `text_completion`.
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    pub(crate) text: String,
    /// Prompt by prompt, `n` choices each.
    pub(crate) index: usize,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`.
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) stop_reason: Option<StopReason>,
    #[schema(value_type = Option<Vec<Object>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// Tokens with their log-probabilities, one entry each.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    pub(crate) tokens: Vec<String>,
    /// The first of an echoed prompt has none.
    pub(crate) token_logprobs: Vec<Option<f32>>,
    /// The likeliest by their text, with the token itself.
    #[schema(value_type = Vec<Option<Object>>)]
    pub(crate) top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each begins in the text, in characters.
    pub(crate) text_offset: Vec<usize>,
}
