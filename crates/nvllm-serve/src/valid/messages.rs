//! A request of `/v1/messages`: a chat in other words.

use serde_json::json;

use super::blocks;
use super::chat::ValidChat;
use super::one_answer;
use super::tools::Words;
use crate::error::ApiError;
use crate::served::Served;
use crate::wire::chat::{ChatFields, Content};
use crate::wire::messages::{MessageTool, MessageToolChoice, MessagesFields};
use crate::wire::sampling::SamplingFields;
use crate::wire::shared::OneOrMany;
use crate::wire::tools::{Function, NamedTool, Tool, ToolChoice};

/// How functions are described.
const WORDS: Words = Words { inner: "", schema: "input_schema" };

/// A request of `/v1/messages`.
#[derive(Clone, Debug)]
pub(crate) struct ValidMessages {
    pub(crate) chat: ValidChat,
    /// The client's own, without the model's.
    pub(crate) stop_sequences: Vec<String>,
}

/// Whether a request is to be answered, or to be counted only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Answer,
    Count,
}

impl ValidMessages {
    /// Errors with the first field that cannot be met.
    pub(crate) fn new(
        wire: MessagesFields,
        mut sampling: SamplingFields,
        purpose: Purpose,
        served: &Served,
    ) -> Result<Self, ApiError> {
        check_unsupported(&wire)?;
        one_answer(&sampling)?;
        if purpose == Purpose::Answer && sampling.max_tokens.is_none() {
            let problem = "is missing; give the tokens to generate at most";
            return Err(ApiError::bad("max_tokens", problem));
        }
        let stop_sequences = wire.stop_sequences.unwrap_or_default();
        if !stop_sequences.is_empty() {
            sampling.stop = Some(OneOrMany::Many(stop_sequences.clone()));
        }
        let messages = blocks::messages(wire.messages.unwrap_or_default())?;
        let tools = wire.tools.unwrap_or_default().into_iter().enumerate();
        let choice = wire.tool_choice.unwrap_or_default();
        let parallel = choice.disable_parallel_tool_use.map(|disabled| !disabled);
        // Clients of this route look for thoughts only if they have asked for them.
        let is_said = wire.thinking.is_some() || served.chat_template_kwargs.contains_key("enable_thinking");
        let chat = ChatFields {
            continue_final_message: Some(blocks::continues(&messages)),
            messages: Some(messages),
            tools: Some(tools.map(|(at, wire)| tool(at, wire)).collect::<Result<_, _>>()?),
            tool_choice: Some(tool_choice(choice)?),
            parallel_tool_calls: parallel,
            enable_thinking: (!is_said).then_some(false),
            thinking: wire.thinking,
            ..ChatFields::default()
        };
        let mut chat = ValidChat::new(chat, sampling, WORDS, served).map_err(in_own_words)?;
        let system = wire.system.map(system_text).transpose()?;
        if let Some(text) = system.filter(|text| !text.is_empty()) {
            chat.conversation.messages.insert(0, json!({ "role": "system", "content": text }));
        }
        Ok(Self { chat, stop_sequences })
    }
}

fn check_unsupported(wire: &MessagesFields) -> Result<(), ApiError> {
    let asks_for_format = wire.output_config.as_ref().is_some_and(|config| config.format.is_some());
    let asks_for_servers = wire.mcp_servers.as_ref().is_some_and(|servers| !servers.is_empty());
    for (name, asked, problem) in [
        ("output_config.format", asks_for_format, "asks for structured output, which is not supported yet"),
        ("container", wire.container.is_some(), "is not supported; nothing is run here"),
        ("mcp_servers", asks_for_servers, "is not supported; tools are the client's"),
    ] {
        if asked {
            return Err(ApiError::bad(name, format!("{problem}: leave it out")));
        }
    }
    Ok(())
}

/// A chat's error about the parameter as this route calls it.
fn in_own_words(error: ApiError) -> ApiError {
    let renamed = [("tool_call_id", "tool_use_id"), ("call_id", "id"), ("arguments", "input")];
    let error = renamed.iter().fold(error, |error, (chat, own)| error.renamed_field(chat, own));
    error.renamed("stop", "stop_sequences")
}

/// A function as chats have it.
fn tool(at: usize, wire: MessageTool) -> Result<Tool, ApiError> {
    let MessageTool { r#type, name, description, input_schema: parameters, strict } = wire;
    match r#type.as_deref() {
        None | Some("custom" | "function") => {}
        Some(kind) => {
            let problem = format!("is {kind:?}; nothing is run here: give tools of type custom");
            return Err(ApiError::bad(format!("tools[{at}].type"), problem));
        }
    }
    let function = Some(Function { name, description, parameters, strict });
    Ok(Tool { r#type: Some("function".into()), function })
}

fn tool_choice(wire: MessageToolChoice) -> Result<ToolChoice, ApiError> {
    let mode = |mode: &str| Ok(ToolChoice::Mode(mode.into()));
    match wire.r#type.as_deref() {
        None | Some("auto") => mode("auto"),
        Some("any") => mode("required"),
        Some("none") => mode("none"),
        Some("tool") => {
            let r#type = Some("function".into());
            Ok(ToolChoice::Named(NamedTool { r#type, function: None, name: wire.name }))
        }
        Some(kind) => {
            let problem = format!("is {kind:?}; give auto, any, tool or none");
            Err(ApiError::bad("tool_choice.type", problem))
        }
    }
}

fn system_text(system: Content) -> Result<String, ApiError> {
    let blocks = match system {
        Content::Text(text) => return Ok(text),
        Content::Parts(blocks) => blocks,
    };
    let mut texts = Vec::new();
    for (at, block) in blocks.into_iter().enumerate() {
        match (block.r#type.as_deref(), block.text) {
            (Some("text"), Some(text)) => texts.push(text),
            (Some("text"), None) => {
                return Err(ApiError::bad(format!("system[{at}].text"), "is missing; give a text"));
            }
            (kind, _) => {
                let problem = format!("is {:?}; give blocks of type text", kind.unwrap_or_default());
                return Err(ApiError::bad(format!("system[{at}].type"), problem));
            }
        }
    }
    Ok(texts.join("\n"))
}
