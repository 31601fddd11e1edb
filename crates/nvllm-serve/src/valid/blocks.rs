//! The messages of `/v1/messages` as those of a chat: results of calls are blocks of a user's
//! message there, and messages here.

use crate::error::ApiError;
use crate::wire::chat::{Content, Message};
use crate::wire::messages::{Block, BlocksOrText, MessageParam};
use crate::wire::tools::{Called, EarlierCall};

/// Errors with the first block that is no part of a conversation.
pub(super) fn messages(wire: Vec<MessageParam>) -> Result<Vec<Message>, ApiError> {
    let mut messages = Vec::new();
    for (at, message) in wire.into_iter().enumerate() {
        let place = format!("messages[{at}]");
        let new = Message { role: message.role.clone(), place: Some(place.clone()), ..Message::default() };
        match message.content {
            None => messages.push(new),
            Some(BlocksOrText::Text(text)) => {
                messages.push(Message { content: Some(Content::Text(text)), ..new });
            }
            Some(BlocksOrText::Blocks(blocks)) => add(&mut messages, &new, &place, blocks)?,
        }
    }
    Ok(messages)
}

/// Whether the answer goes on with the last message: it is an assistant's text.
pub(super) fn continues(messages: &[Message]) -> bool {
    messages.last().is_some_and(|last| {
        let says = matches!(&last.content, Some(Content::Text(text)) if !text.is_empty());
        last.role.as_deref() == Some("assistant") && says && last.tool_calls.is_none()
    })
}

/// Adds the message `new` of these blocks, and a message for each result among them.
fn add(messages: &mut Vec<Message>, new: &Message, place: &str, blocks: Vec<Block>) -> Result<(), ApiError> {
    let is_assistant = new.role.as_deref() == Some("assistant");
    let mut open = new.clone();
    let mut texts: Vec<String> = Vec::new();
    let mut thoughts: Vec<String> = Vec::new();
    let mut has_results = false;
    for (at, block) in blocks.into_iter().enumerate() {
        let place = format!("{place}.content[{at}]");
        match (block.r#type.as_deref(), is_assistant) {
            (Some("text"), _) => match block.text {
                Some(text) => texts.push(text),
                None => return Err(ApiError::bad(format!("{place}.text"), "is missing; give a text")),
            },
            (Some("thinking"), true) => thoughts.extend(block.thinking),
            (Some("redacted_thinking"), true) => {}
            (Some("tool_use"), true) => {
                let function = Called { name: block.name, arguments: block.input };
                let place = Some(place);
                let call = EarlierCall { id: block.id, r#type: None, function: Some(function), place };
                open.tool_calls.get_or_insert_default().push(call);
            }
            (Some("tool_result"), false) => {
                has_results = true;
                if !texts.is_empty() {
                    let content = Some(Content::Text(std::mem::take(&mut texts).join("\n")));
                    messages.push(Message { content, ..new.clone() });
                }
                let content = Some(block.content.unwrap_or(Content::Text(String::new())));
                let (role, place) = (Some("tool".into()), Some(place));
                let tool_call_id = block.tool_use_id;
                messages.push(Message { role, content, tool_call_id, place, ..Message::default() });
            }
            (kind, _) => {
                let known = if is_assistant { "text, thinking or tool_use" } else { "text or tool_result" };
                let problem =
                    format!("is {:?}; blocks of this message may be {known}", kind.unwrap_or_default());
                return Err(ApiError::bad(format!("{place}.type"), problem));
            }
        }
    }
    let says_more = !texts.is_empty() || open.tool_calls.is_some() || !thoughts.is_empty();
    if says_more || !has_results {
        open.reasoning = (!thoughts.is_empty()).then(|| thoughts.join("\n"));
        open.content = Some(Content::Text(texts.join("\n")));
        messages.push(open);
    }
    Ok(())
}
