//! A request of `/v1/messages`: a chat in other words.

use serde_json::json;

use super::chat::ValidChat;
use super::one_answer;
use crate::error::ApiError;
use crate::served::Served;
use crate::wire::chat::{ChatFields, Content, Message};
use crate::wire::messages::{MessageParam, MessagesFields};
use crate::wire::sampling::SamplingFields;
use crate::wire::shared::OneOrMany;

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
        let messages = wire.messages.unwrap_or_default();
        let continues = continues(&messages);
        let chat = ChatFields {
            messages: Some(messages.into_iter().map(message).collect()),
            thinking: wire.thinking,
            continue_final_message: Some(continues),
            ..ChatFields::default()
        };
        let chat = ValidChat::new(chat, sampling, served);
        let mut chat = chat.map_err(|error| error.renamed("stop", "stop_sequences"))?;
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

/// Whether the answer goes on with the last message: it is an assistant's, and says something.
fn continues(messages: &[MessageParam]) -> bool {
    messages.last().is_some_and(|last| {
        let says = match &last.content {
            None => false,
            Some(Content::Text(text)) => !text.is_empty(),
            Some(Content::Parts(parts)) => parts.iter().any(|part| part.text.is_some()),
        };
        last.role.as_deref() == Some("assistant") && says
    })
}

/// A message without what the model thought before, which is not for later turns to read.
fn message(wire: MessageParam) -> Message {
    let mut content = wire.content;
    if let Some(Content::Parts(blocks)) = &mut content {
        blocks.retain(|block| !matches!(block.r#type.as_deref(), Some("thinking" | "redacted_thinking")));
    }
    Message { role: wire.role, content, ..Message::default() }
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
