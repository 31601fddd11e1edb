//! A request of `/v1/responses`: a chat in other words.

use nvllm_engine::Request;
use serde_json::json;

use super::chat::ValidChat;
use super::items::messages;
use super::one_answer;
use super::tools::Words;
use crate::error::ApiError;
use crate::served::Served;
use crate::wire::chat::ChatFields;
use crate::wire::responses::{Echoed, FunctionTool, Reasoning, ResponseFields, TextFormat, TextOptions};
use crate::wire::sampling::SamplingFields;
use crate::wire::structured::{JsonSchema, ResponseFormat};
use crate::wire::tools::{Function, Tool};

const LOGPROBS: &str = "message.output_text.logprobs";
/// How functions are described: without an object around them.
const WORDS: Words = Words { inner: "", schema: "parameters" };
/// What may be included of items that no answer has.
const INCLUDED_OF_NOTHING: [&str; 6] = [
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "message.input_image.image_url",
];
/// A chat's parameters as this route calls them.
const NAMES: [(&str, &str); 5] = [
    ("messages", "input"),
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
];

/// A request of `/v1/responses`.
#[derive(Clone, Debug)]
pub(crate) struct ValidResponse {
    pub(crate) chat: ValidChat,
    pub(crate) echoed: Echoed,
}

impl ValidResponse {
    /// Errors with the first field that cannot be met.
    pub(crate) fn new(
        mut wire: ResponseFields,
        mut sampling: SamplingFields,
        served: &Served,
    ) -> Result<Self, ApiError> {
        check_stateless(&wire)?;
        let format = wire.text.take().unwrap_or_default().format;
        if let Some(format) = &format {
            if sampling.response_format.is_some() {
                return Err(ApiError::bad("text.format", "cannot be combined with response_format"));
            }
            sampling.response_format = Some(response_format(format));
        }
        one_answer(&sampling)?;
        let logprobs = includes_logprobs(&wire)?;
        let truncation = truncation(wire.truncation.as_deref())?;
        if truncation == "auto" {
            sampling.truncate_prompt_tokens = sampling.truncate_prompt_tokens.or(Some(-1));
        }
        let reasoning = wire.reasoning.unwrap_or_default();
        let tools = wire.tools.unwrap_or_default();
        let tool_choice = wire.tool_choice.as_ref().map(|choice| json!(choice));
        let chat = ChatFields {
            messages: Some(messages(wire.input)?),
            max_completion_tokens: wire.max_output_tokens,
            logprobs: Some(logprobs),
            top_logprobs: wire.top_logprobs,
            reasoning_effort: reasoning.effort.clone(),
            tools: Some(tools.iter().cloned().map(tool).collect()),
            tool_choice: wire.tool_choice,
            parallel_tool_calls: wire.parallel_tool_calls,
            thinking_token_budget: wire.thinking_token_budget,
            include_reasoning: wire.include_reasoning,
            enable_thinking: wire.enable_thinking,
            chat_template_kwargs: wire.chat_template_kwargs,
            ..ChatFields::default()
        };
        let mut chat = ValidChat::new(chat, sampling, WORDS, served).map_err(in_own_words)?;
        if let Some(text) = wire.instructions.as_ref().filter(|text| !text.is_empty()) {
            chat.conversation.messages.insert(0, json!({ "role": "system", "content": text }));
        }
        let Request { sampling, max_tokens, logprobs, .. } = &chat.sampling.request;
        let echoed = Echoed {
            instructions: wire.instructions,
            max_output_tokens: *max_tokens,
            max_tool_calls: wire.max_tool_calls,
            metadata: wire.metadata.unwrap_or_default(),
            parallel_tool_calls: wire.parallel_tool_calls.unwrap_or(true),
            reasoning: Reasoning { effort: reasoning.effort, summary: None },
            temperature: sampling.temperature,
            text: TextOptions { format: Some(format.unwrap_or_else(plain_text)), verbosity: None },
            tool_choice: tool_choice.unwrap_or_else(|| json!("auto")),
            tools,
            top_logprobs: logprobs.map_or(0, usize::from),
            top_p: sampling.top_p,
            truncation,
            user: wire.user,
            ..Echoed::default()
        };
        Ok(Self { chat, echoed })
    }
}

/// A chat's error about the parameter as this route calls it.
pub(crate) fn in_own_words(error: ApiError) -> ApiError {
    let error = error.renamed_field("tool_call_id", "call_id");
    NAMES.iter().fold(error, |error, (chat, own)| error.renamed(chat, own))
}

fn check_stateless(wire: &ResponseFields) -> Result<(), ApiError> {
    let stored = "names what would have to be stored, and nothing is stored here; leave it out, and send \
                  the whole conversation as input";
    for (name, asked) in [
        ("previous_response_id", wire.previous_response_id.is_some()),
        ("conversation", wire.conversation.is_some()),
        ("prompt", wire.prompt.is_some()),
    ] {
        if asked {
            return Err(ApiError::bad(name, stored));
        }
    }
    if wire.background == Some(true) {
        let problem = "is true; nothing is stored here, so wait for the answer or stream it";
        return Err(ApiError::bad("background", problem));
    }
    Ok(())
}

/// A function as chats have it.
fn tool(wire: FunctionTool) -> Tool {
    let FunctionTool { r#type, name, description, parameters, strict } = wire;
    Tool { r#type, function: Some(Function { name, description, parameters, strict }) }
}

fn plain_text() -> TextFormat {
    TextFormat { r#type: Some("text".into()), ..TextFormat::default() }
}

/// The form of the text, as chats ask for it.
fn response_format(format: &TextFormat) -> ResponseFormat {
    let TextFormat { r#type, name, description, schema, strict } = format.clone();
    let json_schema = Some(JsonSchema { name, description, schema, strict });
    ResponseFormat { r#type, json_schema, ..ResponseFormat::default() }
}

/// Whether log-probabilities are asked for.
fn includes_logprobs(wire: &ResponseFields) -> Result<bool, ApiError> {
    let include = wire.include.as_deref().unwrap_or_default();
    let known = |name: &String| name == LOGPROBS || INCLUDED_OF_NOTHING.contains(&name.as_str());
    if let Some(at) = include.iter().position(|name| !known(name)) {
        let problem = format!("is {:?}; give {LOGPROBS}", include[at]);
        return Err(ApiError::bad(format!("include[{at}]"), problem));
    }
    let logprobs = include.iter().any(|name| name == LOGPROBS);
    if wire.top_logprobs.is_some_and(|top| top > 0) && !logprobs {
        return Err(ApiError::bad("top_logprobs", format!("needs include: [{LOGPROBS:?}]")));
    }
    Ok(logprobs)
}

fn truncation(wire: Option<&str>) -> Result<&'static str, ApiError> {
    match wire {
        None | Some("disabled") => Ok("disabled"),
        Some("auto") => Ok("auto"),
        Some(other) => Err(ApiError::bad("truncation", format!("is {other:?}; give auto or disabled"))),
    }
}
