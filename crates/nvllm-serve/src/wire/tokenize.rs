//! `/tokenize`, `/detokenize`, `/tokenizer_info`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::chat::Message;
use super::tools::Tool;

/// A text, or a conversation, to be made tokens of.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    pub(crate) model: Option<String>,
    pub(crate) prompt: Option<String>,
    pub(crate) messages: Option<Vec<Message>>,
    /// Functions that the conversation is shown with.
    pub(crate) tools: Option<Vec<Tool>>,
    /// Add what the tokenizer puts around a text; by default for prompts and not for messages.
    pub(crate) add_special_tokens: Option<bool>,
    pub(crate) add_generation_prompt: Option<bool>,
    pub(crate) continue_final_message: Option<bool>,
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the answer has the tokens' names as well.
    pub(crate) return_token_strs: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    pub(crate) count: usize,
    pub(crate) max_model_len: Option<usize>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) token_strs: Option<Vec<String>>,
}

/// A prompt as it is computed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rendered {
    pub(crate) model: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) max_tokens: Option<usize>,
}

/// The tokenizer's special tokens, `eos_token` among them, each under the name that
/// tokenizer_config.json gives it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizerInfo {
    #[serde(flatten)]
    #[schema(value_type = std::collections::HashMap<String, Value>)]
    pub(crate) special_tokens: Map<String, Value>,
    pub(crate) vocab_size: usize,
    /// Tokens of prompt and answer together; null until the model is loaded.
    pub(crate) model_max_length: Option<usize>,
}

/// Tokens to be made text of.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct DetokenizeRequest {
    pub(crate) model: Option<String>,
    pub(crate) tokens: Option<Vec<u32>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Detokenized {
    pub(crate) prompt: String,
}
