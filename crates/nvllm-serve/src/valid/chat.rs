//! A conversation that the model's template can be asked to render.

use serde_json::{Map, Value, json};

use super::sampling::{MAX_TOP_LOGPROBS, ValidSampling};
use super::within;
use crate::error::ApiError;
use crate::served::Served;
use crate::wire::chat::{ChatFields, Content, Message};
use crate::wire::sampling::SamplingFields;

/// Roles that a message may have.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// A request of `/v1/chat/completions`.
#[derive(Clone, Debug)]
pub(crate) struct ValidChat {
    pub(crate) conversation: Conversation,
    pub(crate) sampling: ValidSampling,
    /// Whether the answer begins with the last message's text.
    pub(crate) echo: bool,
}

/// What a chat template is rendered with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    /// At least one, as the template takes them.
    pub(crate) messages: Vec<Value>,
    pub(crate) documents: Option<Vec<Value>>,
    pub(crate) template: Option<String>,
    pub(crate) kwargs: Map<String, Value>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) continue_final_message: bool,
}

impl ValidChat {
    /// Errors with the first field that cannot be met.
    pub(crate) fn new(
        chat: ChatFields,
        mut sampling: SamplingFields,
        served: &Served,
    ) -> Result<Self, ApiError> {
        if chat.max_completion_tokens.is_some() {
            within("max_completion_tokens", chat.max_completion_tokens, 1, i64::MAX)?;
            sampling.max_tokens = chat.max_completion_tokens;
        }
        let mut sampling = ValidSampling::new(sampling, served)?;
        if sampling.stream.is_some() && sampling.request.prompt_logprobs.is_some() {
            return Err(ApiError::bad(
                "prompt_logprobs",
                "cannot be streamed by this route; ask for the whole answer",
            ));
        }
        if sampling.add_special_tokens == Some(true) {
            let problem = "is for prompts; the chat template writes them: leave it out";
            return Err(ApiError::bad("add_special_tokens", problem));
        }
        sampling.request.max_tokens = sampling.request.max_tokens.or(served.max_tokens);
        let top = within("top_logprobs", chat.top_logprobs, 0, MAX_TOP_LOGPROBS)?;
        if top.is_some_and(|top| top > 0) && chat.logprobs != Some(true) {
            return Err(ApiError::bad("top_logprobs", "needs logprobs: true"));
        }
        sampling.request.logprobs = (chat.logprobs == Some(true)).then(|| top.unwrap_or(0) as u16);
        let echo = chat.echo.unwrap_or(false);
        Ok(Self { conversation: Conversation::new(chat, served)?, sampling, echo })
    }
}

impl Conversation {
    /// Errors if there are no messages, or one cannot be rendered.
    pub(crate) fn new(chat: ChatFields, served: &Served) -> Result<Self, ApiError> {
        let kwargs = template_kwargs(&chat, served)?;
        let wire = chat.messages.unwrap_or_default();
        if wire.is_empty() {
            return Err(ApiError::bad("messages", "is empty; give at least one message"));
        }
        let continue_final_message = chat.continue_final_message.unwrap_or(false);
        let add_generation_prompt = chat.add_generation_prompt.unwrap_or(!continue_final_message);
        if continue_final_message && add_generation_prompt {
            let problem = "goes on with the last message; give add_generation_prompt: false with it";
            return Err(ApiError::bad("continue_final_message", problem));
        }
        let messages = wire.into_iter().enumerate().map(|(at, message)| valid_message(at, message));
        Ok(Self {
            messages: messages.collect::<Result<_, _>>()?,
            documents: chat.documents,
            template: chat.chat_template,
            kwargs,
            add_generation_prompt,
            continue_final_message,
        })
    }

    /// The last message's text.
    pub(crate) fn last_text(&self) -> &str {
        self.messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default()
    }
}

/// What the template is given beside the messages. A request's own words go before the server's,
/// and the general switch before the particular ones.
fn template_kwargs(chat: &ChatFields, served: &Served) -> Result<Map<String, Value>, ApiError> {
    let mut kwargs = served.chat_template_kwargs.clone();
    if let Some(effort) = &chat.reasoning_effort {
        if !EFFORTS.contains(&effort.as_str()) {
            let problem = format!("is {effort:?}; give one of {}", EFFORTS.join(", "));
            return Err(ApiError::bad("reasoning_effort", problem));
        }
        kwargs.insert("reasoning_effort".into(), json!(effort));
        kwargs.insert("enable_thinking".into(), json!(effort != "none"));
    }
    let thinking = match &chat.thinking {
        Some(Value::Bool(on)) => Some(*on),
        // Anthropic's and DeepSeek's form.
        Some(Value::Object(form)) => match form.get("type").and_then(Value::as_str) {
            Some("enabled" | "adaptive") => Some(true),
            Some("disabled") => Some(false),
            _ => return Err(ApiError::bad("thinking.type", "must be enabled or disabled")),
        },
        None | Some(Value::Null) => None,
        Some(_) => return Err(ApiError::bad("thinking", "must be true, false or {\"type\": ..}")),
    };
    if let Some(on) = chat.enable_thinking.or(thinking) {
        kwargs.insert("enable_thinking".into(), json!(on));
    }
    kwargs.extend(
        chat.chat_template_kwargs.iter().flatten().map(|(name, value)| (name.clone(), value.clone())),
    );
    Ok(kwargs)
}

/// A message as templates take it: its text as one string, its thoughts under the name that
/// templates know.
fn valid_message(at: usize, wire: Message) -> Result<Value, ApiError> {
    let param = |field: &str| format!("messages[{at}].{field}");
    let Some(role) = wire.role else {
        return Err(ApiError::bad(param("role"), format!("is missing; give one of {}", ROLES.join(", "))));
    };
    if !ROLES.contains(&role.as_str()) {
        let problem = format!("is {role:?}; give one of {}", ROLES.join(", "));
        return Err(ApiError::bad(param("role"), problem));
    }
    let says_something = wire.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
    let text = match wire.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => text_of(&param("content"), &parts)?,
        None if role == "assistant" && says_something => String::new(),
        None => return Err(ApiError::bad(param("content"), "is missing; give a text")),
    };
    let mut message = Map::new();
    // Templates know nothing of developers, and leave out what they do not know.
    message.insert("role".into(), if role == "developer" { "system" } else { &*role }.into());
    message.insert("content".into(), text.into());
    let optional = [
        ("name", wire.name.map(Value::from)),
        ("reasoning_content", wire.reasoning_content.or(wire.reasoning).map(Value::from)),
        ("tool_calls", wire.tool_calls.filter(|calls| !calls.is_empty()).map(Value::from)),
        ("tool_call_id", wire.tool_call_id.map(Value::from)),
    ];
    for (name, value) in optional {
        message.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(message.into())
}

/// The texts of parts, a line each, as vLLM joins them.
fn text_of(param: &str, parts: &[crate::wire::chat::Part]) -> Result<String, ApiError> {
    let mut texts = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        match (part.r#type.as_deref(), &part.text) {
            (Some("text" | "input_text" | "output_text"), Some(text)) => texts.push(text.as_str()),
            (Some("text" | "input_text" | "output_text"), None) => {
                return Err(ApiError::bad(format!("{param}[{index}].text"), "is missing; give a text"));
            }
            (Some(kind), _) => {
                let problem = format!("is {kind:?}; this model reads parts of type text only");
                return Err(ApiError::bad(format!("{param}[{index}].type"), problem));
            }
            (None, _) => {
                return Err(ApiError::bad(format!("{param}[{index}].type"), "is missing; give text"));
            }
        }
    }
    Ok(texts.join("\n"))
}
