//! The input of `/v1/responses` as the messages of a chat: an answer's thoughts, text and calls are
//! items there, and one message here.

use super::turns::text_of;
use crate::error::ApiError;
use crate::wire::chat::{Content, Message, Part};
use crate::wire::responses::{Input, InputItem};
use crate::wire::tools::{Called, EarlierCall};

/// Errors with the first item that is no part of a conversation.
pub(super) fn messages(input: Option<Input>) -> Result<Vec<Message>, ApiError> {
    let items = match input {
        None => return Err(ApiError::bad("input", "is missing; give a text or a list of messages")),
        Some(Input::Text(text)) => {
            let content = Some(Content::Text(text));
            return Ok(vec![Message { role: Some("user".into()), content, ..Message::default() }]);
        }
        Some(Input::Items(items)) => items,
    };
    let mut messages = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        add(&mut messages, &format!("input[{at}]"), item)?;
    }
    Ok(messages)
}

fn add(messages: &mut Vec<Message>, place: &str, item: InputItem) -> Result<(), ApiError> {
    match item.r#type.as_deref() {
        None | Some("message") => {
            // Behind its thoughts.
            let thought =
                open_answer(messages).filter(|last| last.content.is_none() && last.tool_calls.is_none());
            match thought.filter(|_| item.role.as_deref() == Some("assistant")) {
                Some(answer) => {
                    answer.content = item.content;
                    answer.place = Some(place.to_owned());
                }
                None => messages.push(Message { role: item.role, content: item.content, ..new(place) }),
            }
        }
        Some("reasoning") => {
            let thought = thought(item);
            if !thought.is_empty() {
                let role = Some("assistant".into());
                messages.push(Message { role, reasoning: Some(thought), ..new(place) });
            }
        }
        Some("function_call") => {
            let function = Called { name: item.name, arguments: item.arguments };
            let place = Some(place.to_owned());
            let call = EarlierCall {
                id: item.call_id,
                r#type: None,
                function: Some(function),
                place: place.clone(),
            };
            if let Some(answer) = open_answer(messages) {
                answer.tool_calls.get_or_insert_default().push(call);
            } else {
                let (role, tool_calls) = (Some("assistant".into()), Some(vec![call]));
                messages.push(Message { role, tool_calls, place, ..Message::default() });
            }
        }
        Some("function_call_output") => {
            let text = match item.output {
                Some(Content::Text(text)) => text,
                Some(Content::Parts(parts)) => text_of(&format!("{place}.output"), &parts)?,
                None => {
                    return Err(ApiError::bad(
                        format!("{place}.output"),
                        "is missing; give the result as a text",
                    ));
                }
            };
            let (role, content) = (Some("tool".into()), Some(Content::Text(text)));
            messages.push(Message { role, content, tool_call_id: item.call_id, ..new(place) });
        }
        Some(kind) => {
            let why = match kind {
                "item_reference" => "nothing is stored here, so send the item itself",
                _ => "give message, reasoning, function_call or function_call_output",
            };
            return Err(ApiError::bad(format!("{place}.type"), format!("is {kind:?}; {why}")));
        }
    }
    Ok(())
}

fn new(place: &str) -> Message {
    Message { place: Some(place.to_owned()), ..Message::default() }
}

/// The assistant's message that what comes next may belong to.
fn open_answer(messages: &mut [Message]) -> Option<&mut Message> {
    messages.last_mut().filter(|last| last.role.as_deref() == Some("assistant"))
}

/// A thought as it was told, or its summary; empty if it is encrypted.
fn thought(item: InputItem) -> String {
    let of = |parts: Vec<Part>| parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().join("\n");
    let told = match item.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => of(parts),
        None => String::new(),
    };
    if told.is_empty() { of(item.summary.unwrap_or_default()) } else { told }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::valid::turns;

    #[test]
    fn an_answers_items_are_one_message() {
        let call =
            |id: &str| json!({ "type": "function_call", "call_id": id, "name": "f", "arguments": "{}" });
        let output = |id: &str| json!({ "type": "function_call_output", "call_id": id, "output": "5" });
        let thought = json!({ "type": "reasoning", "id": "rs_1", "summary": [], "content": [{ "type": "reasoning_text", "text": "hm" }] });
        let said = json!({ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "Look:" }] });
        let encrypted = json!({ "type": "reasoning", "summary": [], "encrypted_content": "x" });
        let items = [
            json!({ "role": "user", "content": "Hi" }),
            thought.clone(),
            said.clone(),
            call("1"),
            call("2"),
            output("1"),
            output("2"),
            encrypted,
            said,
            thought,
            call("3"),
        ];
        let input = serde_json::from_value(json!(items)).unwrap();
        let messages = turns::messages(messages(Some(input)).unwrap()).unwrap();
        let shape = |message: &Value| {
            let calls = message["tool_calls"].as_array().map_or(0, Vec::len);
            format!("{} {} {} {calls}", message["role"], message["content"], message["reasoning_content"])
        };
        let shapes: Vec<_> = messages.iter().map(shape).collect();
        let expected = [
            r#""user" "Hi" null 0"#,
            r#""assistant" "Look:" "hm" 2"#,
            r#""tool" "5" null 0"#,
            r#""tool" "5" null 0"#,
            r#""assistant" "Look:" null 0"#,
            r#""assistant" "" "hm" 1"#,
        ];
        assert_eq!(shapes, expected);
    }
}
