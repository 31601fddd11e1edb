//! `/v1/messages`, as Anthropic's clients speak.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::chat::Content;
use super::sampling::SamplingFields;
use crate::error::ApiError;

/// A request's body: for its description; it is read part by part.
#[derive(Serialize, ToSchema)]
pub(crate) struct MessagesRequest {
    #[serde(flatten)]
    messages: MessagesFields,
    #[serde(flatten)]
    sampling: SamplingFields,
}

/// The conversation. `max_tokens`, which must be given, and what else says how tokens are sampled
/// is as on the other routes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[schema(title = "Messages")]
pub(crate) struct MessagesFields {
    /// The system message, a string or text blocks.
    pub(crate) system: Option<Content>,
    pub(crate) messages: Option<Vec<MessageParam>>,
    /// Texts that end an answer.
    pub(crate) stop_sequences: Option<Vec<String>>,
    /// `{"type": "enabled", "budget_tokens": N}`, `{"type": "adaptive"}` or `{"type": "disabled"}`
    /// (as if absent), for templates that know `enable_thinking`.
    pub(crate) thinking: Option<Value>,
    /// Functions that the answer may call.
    pub(crate) tools: Option<Vec<MessageTool>>,
    pub(crate) tool_choice: Option<MessageToolChoice>,
    /// Its `format` is refused, the rest has no effect.
    pub(crate) output_config: Option<OutputConfig>,
    /// Refused.
    pub(crate) container: Option<Value>,
    /// Refused unless empty.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) mcp_servers: Option<Vec<Value>>,
    /// Without effect: prefixes are cached anyway.
    pub(crate) cache_control: Option<Value>,
    /// Without effect.
    pub(crate) context_management: Option<Value>,
    /// Without effect.
    pub(crate) inference_geo: Option<String>,
    /// Without effect.
    pub(crate) speed: Option<String>,
}

/// A message: a string, or blocks, whose `cache_control` has no effect.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct MessageParam {
    /// `user` or `assistant`. If the last one is an assistant's text, the answer goes on with it.
    pub(crate) role: Option<String>,
    pub(crate) content: Option<BlocksOrText>,
}

#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "give a string or a list of blocks")]
pub(crate) enum BlocksOrText {
    Text(String),
    Blocks(Vec<Block>),
}

/// A part of a message.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Block {
    /// `text`, `thinking`, `redacted_thinking`, `tool_use` or `tool_result`.
    pub(crate) r#type: Option<String>,
    pub(crate) text: Option<String>,
    /// Printed where the template prints earlier thoughts; its signature has no effect.
    pub(crate) thinking: Option<String>,
    /// Of a call.
    pub(crate) id: Option<String>,
    /// Of the function that is called.
    pub(crate) name: Option<String>,
    /// A call's arguments, an object.
    pub(crate) input: Option<Value>,
    /// Which call it is the result of.
    pub(crate) tool_use_id: Option<String>,
    /// A call's result, a string or text blocks.
    pub(crate) content: Option<Content>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct MessageTool {
    /// `custom`, as if absent.
    pub(crate) r#type: Option<String>,
    /// Letters, digits, `_`, `-`, `.`, `:` and `/`.
    pub(crate) name: Option<String>,
    /// When to call it, for the model.
    pub(crate) description: Option<String>,
    /// A JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub(crate) input_schema: Option<Map<String, Value>>,
    /// Whether arguments follow the schema; with `any` and `tool` they do anyway.
    pub(crate) strict: Option<bool>,
}

/// Whether functions are called, and which.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct MessageToolChoice {
    /// `auto` (as if absent), `any`, `tool` or `none`.
    pub(crate) r#type: Option<String>,
    /// With `tool`: the one that is to be called.
    pub(crate) name: Option<String>,
    /// Whether an answer may call one function only.
    pub(crate) disable_parallel_tool_use: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct OutputConfig {
    /// Refused.
    pub(crate) format: Option<Value>,
    /// Without effect.
    pub(crate) effort: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct MessageObject {
    pub(crate) id: String,
    /// `message`.
    pub(crate) r#type: &'static str,
    /// `assistant`.
    pub(crate) role: &'static str,
    pub(crate) model: String,
    pub(crate) content: Vec<AnswerBlock>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`; none at the beginning of a stream.
    pub(crate) stop_reason: Option<&'static str>,
    /// The stop sequence that ended the answer.
    pub(crate) stop_sequence: Option<String>,
    pub(crate) usage: MessagesUsage,
}

/// What the model says, thinks or calls.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum AnswerBlock {
    Text {
        text: String,
    },
    Thinking {
        thinking: String,
        /// Means nothing here: clients send it back.
        signature: String,
    },
    ToolUse {
        id: String,
        name: String,
        /// The arguments; empty while they stream.
        #[schema(value_type = Object)]
        input: Map<String, Value>,
    },
}

/// What a request took, in tokens. The prompt is the sum of the input's three numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "as they are on the wire")]
pub(crate) struct MessagesUsage {
    /// Those that were not in the KV cache.
    pub(crate) input_tokens: usize,
    /// Those whose keys and values were in the KV cache already.
    pub(crate) cache_read_input_tokens: usize,
    /// Always 0: what is put into the cache is not counted apart.
    pub(crate) cache_creation_input_tokens: usize,
    pub(crate) output_tokens: usize,
}

/// An event of a stream.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum MessageEvent<'a> {
    MessageStart { message: &'a MessageObject },
    ContentBlockStart { index: usize, content_block: &'a AnswerBlock },
    Ping,
    ContentBlockDelta { index: usize, delta: BlockDelta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: MessageEnd<'a>, usage: MessagesUsage },
    MessageStop,
}

impl MessageEvent<'_> {
    /// Its type, which is also the server-sent event's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::Ping => "ping",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }
}

/// What is new of a block.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type")]
pub(crate) enum BlockDelta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    /// A piece of a call's arguments, as JSON text.
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

/// How an answer ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageEnd<'a> {
    pub(crate) stop_reason: Option<&'static str>,
    pub(crate) stop_sequence: Option<&'a str>,
}

/// The length of a prompt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageTokens {
    pub(crate) input_tokens: usize,
}

/// An error's body, and the last event of a stream that fails.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessagesError<'a> {
    /// `error`.
    r#type: &'static str,
    error: MessagesErrorInfo<'a>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessagesErrorInfo<'a> {
    /// The kind, by status: `invalid_request_error`, `overloaded_error`, ..
    r#type: &'static str,
    message: &'a str,
}

impl<'a> From<&'a ApiError> for MessagesError<'a> {
    fn from(error: &'a ApiError) -> Self {
        Self { r#type: "error", error: MessagesErrorInfo { r#type: error.kind(), message: &error.message } }
    }
}
