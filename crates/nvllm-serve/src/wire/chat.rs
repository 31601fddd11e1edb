//! `/v1/chat/completions`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::sampling::SamplingFields;
use super::shared::Usage;
use super::tools::{EarlierCall, Tool, ToolCall, ToolChoice};

/// A request's body: for its description; it is read part by part.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatRequest {
    #[serde(flatten)]
    chat: ChatFields,
    #[serde(flatten)]
    sampling: SamplingFields,
}

/// The conversation and how it becomes a prompt.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[schema(title = "Chat")]
pub(crate) struct ChatFields {
    pub(crate) messages: Option<Vec<Message>>,
    /// Tokens to generate at most; `max_tokens` is its old name.
    pub(crate) max_completion_tokens: Option<i64>,
    /// Whether the answer has log-probabilities.
    pub(crate) logprobs: Option<bool>,
    /// Of this many of the likeliest tokens as well.
    pub(crate) top_logprobs: Option<i64>,
    /// Functions that the answer may call.
    pub(crate) tools: Option<Vec<Tool>>,
    /// `none`, `auto` (as if absent), `required`, or a function that is to be called.
    pub(crate) tool_choice: Option<ToolChoice>,
    /// Whether an answer may call several functions, as it may by default.
    pub(crate) parallel_tool_calls: Option<bool>,
    /// `none` asks Qwen3 not to think. What else it changes is the template's.
    pub(crate) reasoning_effort: Option<String>,
    /// Whether the model may think, for templates that know `enable_thinking`.
    pub(crate) enable_thinking: Option<bool>,
    /// As `enable_thinking`, or `{"type": "enabled", "budget_tokens": N}`.
    pub(crate) thinking: Option<Value>,
    /// Tokens of thoughts at most; then the model answers.
    pub(crate) thinking_token_budget: Option<i64>,
    /// Whether the answer has the thoughts, as it has by default.
    pub(crate) include_reasoning: Option<bool>,
    /// More variables for the chat template.
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    /// A name of one of the model's templates.
    pub(crate) chat_template: Option<String>,
    /// Documents for templates that know them.
    pub(crate) documents: Option<Vec<Value>>,
    /// Whether the prompt ends with the opening of an answer, as by default.
    pub(crate) add_generation_prompt: Option<bool>,
    /// Whether the answer goes on with the last message.
    pub(crate) continue_final_message: Option<bool>,
    /// Whether the answer begins with the last message's text.
    pub(crate) echo: Option<bool>,
}

/// One message.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub(crate) role: Option<String>,
    pub(crate) content: Option<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// What an assistant thought; printed where the template prints earlier thoughts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<String>,
    /// The same by its old name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_calls: Option<Vec<EarlierCall>>,
    /// Of a tool's answer: the id of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_call_id: Option<String>,
    /// Where it stands in the body of a route that has another form.
    #[serde(skip)]
    pub(crate) place: Option<String>,
}

/// A message's text, or its parts.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "give a string or a list of parts")]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message; of type `text`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct Part {
    pub(crate) r#type: Option<String>,
    pub(crate) text: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    pub(crate) id: String,
    /// `chat.completion`.
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) choices: Vec<ChatChoice>,
    pub(crate) service_tier: Option<String>,
    pub(crate) system_fingerprint: Option<String>,
    pub(crate) usage: Usage,
    #[schema(value_type = Option<Vec<Option<Object>>>)]
    pub(crate) prompt_logprobs: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    pub(crate) index: usize,
    pub(crate) message: Answer,
    pub(crate) logprobs: Option<ChatLogprobs>,
    /// `stop`, `length`, or `tool_calls` if functions are called.
    pub(crate) finish_reason: Option<&'static str>,
    /// The stop string, or the id of the stop token that is not the model's own.
    pub(crate) stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// What ended an answer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum StopReason {
    Text(String),
    Token(u32),
}

/// An assistant's message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Answer {
    /// `assistant`.
    pub(crate) role: &'static str,
    /// Null if there are thoughts or calls and nothing else.
    pub(crate) content: Option<String>,
    pub(crate) refusal: Option<String>,
    /// What the model thought, under the names of `--reasoning-field`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<ToolCall>,
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Vec<TokenLogprob>,
    pub(crate) refusal: Option<Vec<TokenLogprob>>,
}

/// A token of the answer with its log-probability in the model's own distribution.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TokenLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    /// Exact where a token is a part of a character, and `token` cannot be.
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) top_logprobs: Vec<TopLogprob>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TopLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Option<Vec<u8>>,
}

/// A piece of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChunk<'a> {
    pub(crate) id: &'a str,
    /// `chat.completion.chunk`.
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: Delta,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
    /// Whether its token is one of thought: routes differ in what they tell of those.
    #[serde(skip)]
    pub(crate) is_thought: bool,
}

/// What is new of a message. Clients join the texts of all deltas, the role's too: it is in the
/// first only.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<ToolCall>,
}
