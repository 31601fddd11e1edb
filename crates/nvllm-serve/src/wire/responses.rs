//! `/v1/responses`, without anything stored.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::chat::{Content, Part, TokenLogprob};
use super::sampling::SamplingFields;
use super::tools::ToolChoice;

/// A request's body: for its description; it is read part by part.
#[derive(Serialize, ToSchema)]
pub(crate) struct ResponseRequest {
    #[serde(flatten)]
    response: ResponseFields,
    #[serde(flatten)]
    sampling: SamplingFields,
}

/// What is answered, and in which form.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[schema(title = "Response")]
pub(crate) struct ResponseFields {
    pub(crate) input: Option<Input>,
    /// The system message that goes before the input.
    pub(crate) instructions: Option<String>,
    /// Tokens to generate at most.
    pub(crate) max_output_tokens: Option<i64>,
    /// `message.output_text.logprobs` asks for log-probabilities.
    pub(crate) include: Option<Vec<String>>,
    /// Of this many of the likeliest tokens as well.
    pub(crate) top_logprobs: Option<i64>,
    pub(crate) reasoning: Option<Reasoning>,
    pub(crate) text: Option<TextOptions>,
    /// `auto` drops the beginning of a prompt that is too long, `disabled` refuses it.
    pub(crate) truncation: Option<String>,
    /// Accepted; nothing is stored.
    pub(crate) store: Option<bool>,
    /// Repeated in the answer.
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Map<String, Value>>,
    /// Refused if true.
    pub(crate) background: Option<bool>,
    /// Refused: nothing is stored.
    pub(crate) previous_response_id: Option<String>,
    /// Refused: nothing is stored.
    pub(crate) conversation: Option<Value>,
    /// Refused: nothing is stored.
    pub(crate) prompt: Option<Value>,
    /// Functions that the answer may call.
    pub(crate) tools: Option<Vec<FunctionTool>>,
    /// Whether an answer may call several functions, as it may by default.
    pub(crate) parallel_tool_calls: Option<bool>,
    /// Repeated in the answer.
    pub(crate) max_tool_calls: Option<i64>,
    /// `none`, `auto` (as if absent), `required`, or a function that is to be called.
    pub(crate) tool_choice: Option<ToolChoice>,
    /// Repeated in the answer.
    pub(crate) user: Option<String>,
    /// Tokens of thoughts at most; then the model answers.
    pub(crate) thinking_token_budget: Option<i64>,
    /// Whether the answer has the thoughts, as it has by default.
    pub(crate) include_reasoning: Option<bool>,
    /// Whether the model may think, for templates that know `enable_thinking`.
    pub(crate) enable_thinking: Option<bool>,
    /// More variables for the chat template.
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
}

/// A user's message, or a conversation.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "give a string or a list of items, each with role and content")]
pub(crate) enum Input {
    Text(String),
    Items(Vec<InputItem>),
}

/// A message, a thought, a call or its result; items of other types are refused.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct InputItem {
    /// `message` (as if absent), `reasoning`, `function_call` or `function_call_output`.
    pub(crate) r#type: Option<String>,
    /// Of a message: `system`, `developer`, `user` or `assistant`.
    pub(crate) role: Option<String>,
    /// Of a message or a thought.
    pub(crate) content: Option<Content>,
    /// Of a thought whose content is not given.
    pub(crate) summary: Option<Vec<Part>>,
    /// Which call it is, or is the result of.
    pub(crate) call_id: Option<String>,
    /// The function that is called.
    pub(crate) name: Option<String>,
    /// Of a call: a JSON object as text.
    pub(crate) arguments: Option<Value>,
    /// A call's result.
    pub(crate) output: Option<Content>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct FunctionTool {
    /// `function`.
    pub(crate) r#type: Option<String>,
    /// Letters, digits, `_`, `-`, `.`, `:` and `/`.
    pub(crate) name: Option<String>,
    /// When to call it, for the model.
    pub(crate) description: Option<String>,
    /// A JSON schema of its arguments; none if absent.
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Option<Map<String, Value>>,
    /// Whether arguments follow the schema; with `required` and a named function they do anyway.
    pub(crate) strict: Option<bool>,
}

/// How much the model thinks.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Reasoning {
    /// `none` asks Qwen3 not to think.
    pub(crate) effort: Option<String>,
    /// Without effect.
    pub(crate) summary: Option<String>,
}

/// The form of the text.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct TextOptions {
    pub(crate) format: Option<TextFormat>,
    /// Without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verbosity: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    pub(crate) r#type: Option<String>,
    /// Without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// With `json_schema`: the text follows it, `strict` or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) schema: Option<Value>,
    /// Without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strict: Option<bool>,
}

/// What an answer repeats of its request; clients' types need all of it.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Echoed {
    pub(crate) background: bool,
    pub(crate) instructions: Option<String>,
    pub(crate) max_output_tokens: Option<usize>,
    pub(crate) max_tool_calls: Option<i64>,
    #[schema(value_type = Object)]
    pub(crate) metadata: Map<String, Value>,
    pub(crate) parallel_tool_calls: bool,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) reasoning: Reasoning,
    /// Always false.
    pub(crate) store: bool,
    pub(crate) temperature: f32,
    pub(crate) text: TextOptions,
    #[schema(value_type = Object)]
    pub(crate) tool_choice: Value,
    pub(crate) tools: Vec<FunctionTool>,
    pub(crate) top_logprobs: usize,
    pub(crate) top_p: f32,
    /// `auto` or `disabled`.
    pub(crate) truncation: &'static str,
    pub(crate) user: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ResponseObject {
    pub(crate) id: String,
    /// `response`.
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created_at: u64,
    /// Seconds since 1970, once it is complete.
    pub(crate) completed_at: Option<u64>,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub(crate) status: &'static str,
    pub(crate) error: Option<ResponseError>,
    pub(crate) incomplete_details: Option<IncompleteDetails>,
    pub(crate) model: String,
    pub(crate) output: Vec<OutputItem>,
    pub(crate) usage: Option<ResponseUsage>,
    #[serde(flatten)]
    pub(crate) echoed: Echoed,
}

/// Why a response failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ResponseError {
    /// `server_error`.
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct IncompleteDetails {
    /// `max_output_tokens`, or `timeout`.
    pub(crate) reason: &'static str,
}

/// What the model says, thinks or calls; each has the status `in_progress`, `completed` or
/// `incomplete`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputItem {
    Reasoning {
        id: String,
        /// Empty: thoughts are told as they are.
        #[schema(value_type = Vec<Object>)]
        summary: Vec<Value>,
        content: Vec<OutputPart>,
        status: &'static str,
    },
    Message {
        id: String,
        status: &'static str,
        /// `assistant`.
        role: &'static str,
        content: Vec<OutputPart>,
    },
    FunctionCall {
        id: String,
        status: &'static str,
        /// What its result names.
        call_id: String,
        name: String,
        /// JSON as text.
        arguments: String,
    },
}

/// The text of a message or a thought.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputPart {
    OutputText {
        text: String,
        #[schema(value_type = Vec<Object>)]
        annotations: Vec<Value>,
        logprobs: Vec<TokenLogprob>,
    },
    ReasoningText {
        text: String,
    },
}

/// What a request took, in tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct ResponseUsage {
    pub(crate) input_tokens: usize,
    pub(crate) input_tokens_details: InputTokensDetails,
    pub(crate) output_tokens: usize,
    pub(crate) output_tokens_details: OutputTokensDetails,
    pub(crate) total_tokens: usize,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct InputTokensDetails {
    /// Prompt tokens whose keys and values were in the KV cache already.
    pub(crate) cached_tokens: usize,
    /// Always 0: a matter of prices.
    pub(crate) cache_write_tokens: usize,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct OutputTokensDetails {
    pub(crate) reasoning_tokens: usize,
}

/// An event of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseEvent<'a> {
    /// As the server-sent event is named.
    pub(crate) r#type: &'static str,
    /// From 0.
    pub(crate) sequence_number: u64,
    #[serde(flatten)]
    pub(crate) body: EventBody<'a>,
}

/// What an event is about.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum EventBody<'a> {
    Response {
        response: &'a ResponseObject,
    },
    Item {
        output_index: usize,
        item: &'a OutputItem,
    },
    Part {
        #[serde(flatten)]
        at: Place<'a>,
        part: &'a OutputPart,
    },
    Delta {
        #[serde(flatten)]
        at: Place<'a>,
        delta: &'a str,
        /// Of a message's text.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<&'a [TokenLogprob]>,
    },
    Text {
        #[serde(flatten)]
        at: Place<'a>,
        text: &'a str,
        /// Of a message's text.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<&'a [TokenLogprob]>,
    },
    Arguments {
        #[serde(flatten)]
        at: Place<'a>,
        name: &'a str,
        arguments: &'a str,
    },
}

/// Which item of the output an event is about, and which part of it.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Place<'a> {
    pub(crate) item_id: &'a str,
    pub(crate) output_index: usize,
    /// Calls have no parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_index: Option<usize>,
}

/// The length of a prompt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseInputTokens {
    /// `response.input_tokens`.
    pub(crate) object: &'static str,
    pub(crate) input_tokens: usize,
}
