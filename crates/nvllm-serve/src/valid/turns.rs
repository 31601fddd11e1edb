//! The messages of a conversation, as templates take them.

use serde_json::{Map, Value, json};

use super::tools::check_name;
use crate::error::ApiError;
use crate::wire::chat::{Content, Message, Part};
use crate::wire::tools::{Called, EarlierCall};

/// Roles that a message may have.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// The messages of a conversation. Errors with the first field that no template could print, and
/// if a tool's answer is to no call.
pub(crate) fn messages(wire: Vec<Message>) -> Result<Vec<Value>, ApiError> {
    let mut calls = Calls::default();
    wire.into_iter().enumerate().map(|(at, message)| valid_message(at, message, &mut calls)).collect()
}

/// Calls so far: id and function.
#[derive(Default)]
struct Calls(Vec<(String, String)>);

impl Calls {
    /// The function that the call of this id is of.
    fn function(&self, id: &str) -> Option<&str> {
        // The last one, as some models count from 0 in each answer.
        self.0.iter().rev().find(|(known, _)| known == id).map(|(_, name)| name.as_str())
    }
}

/// A message as templates take it: its text as one string, its thoughts under the name that
/// templates know, the arguments of its calls as objects.
fn valid_message(at: usize, wire: Message, calls: &mut Calls) -> Result<Value, ApiError> {
    let place = wire.place.clone().unwrap_or_else(|| format!("messages[{at}]"));
    let param = |field: &str| format!("{place}.{field}");
    let Some(role) = wire.role else {
        return Err(ApiError::bad(param("role"), format!("is missing; give one of {}", ROLES.join(", "))));
    };
    if !ROLES.contains(&role.as_str()) {
        let problem = format!("is {role:?}; give one of {}", ROLES.join(", "));
        return Err(ApiError::bad(param("role"), problem));
    }
    let called = wire.tool_calls.unwrap_or_default();
    if role != "assistant" && !called.is_empty() {
        return Err(ApiError::bad(
            param("tool_calls"),
            format!("cannot be of role {role}; only assistants call"),
        ));
    }
    let thought = wire.reasoning_content.or(wire.reasoning);
    let says_something = !called.is_empty() || thought.is_some();
    let text = match wire.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => text_of(&param("content"), &parts)?,
        None if role == "assistant" && says_something => String::new(),
        None => return Err(ApiError::bad(param("content"), "is missing; give a text")),
    };
    let mut name = wire.name;
    if role == "tool" {
        let id = wire.tool_call_id.as_deref();
        let id =
            id.ok_or_else(|| ApiError::bad(param("tool_call_id"), "is missing; give the id of a call"))?;
        let function = calls.function(id).ok_or_else(|| {
            ApiError::bad(
                param("tool_call_id"),
                format!("is {id:?}, and no message before calls with this id"),
            )
        })?;
        // Some templates print it.
        name.get_or_insert_with(|| function.to_owned());
    }
    let called: Vec<_> = called
        .into_iter()
        .enumerate()
        .map(|(at, call)| earlier_call(&param("tool_calls"), at, call))
        .collect::<Result<_, _>>()?;
    calls.0.extend(called.iter().map(|call| (call.id.clone(), call.name.clone())));
    let mut message = Map::new();
    // Templates know nothing of developers, and leave out what they do not know.
    message.insert("role".into(), if role == "developer" { "system" } else { &*role }.into());
    message.insert("content".into(), text.into());
    let called = (!called.is_empty()).then(|| called.iter().map(ValidCall::for_template).collect::<Value>());
    let optional = [
        ("name", name.map(Value::from)),
        ("reasoning_content", thought.filter(|thought| !thought.is_empty()).map(Value::from)),
        ("tool_calls", called),
        ("tool_call_id", wire.tool_call_id.map(Value::from)),
    ];
    for (name, value) in optional {
        message.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(message.into())
}

/// A call of an earlier answer.
struct ValidCall {
    id: String,
    name: String,
    arguments: Map<String, Value>,
}

impl ValidCall {
    fn for_template(&self) -> Value {
        let Self { id, name, arguments } = self;
        json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
    }
}

fn earlier_call(list: &str, at: usize, call: EarlierCall) -> Result<ValidCall, ApiError> {
    let place = call.place.clone();
    let param = |chat: &str, own: &str| match &place {
        Some(place) => format!("{place}.{own}"),
        None => format!("{list}[{at}].{chat}"),
    };
    let id =
        call.id.ok_or_else(|| ApiError::bad(param("id", "call_id"), "is missing; give the call's id"))?;
    if call.r#type.as_deref().is_some_and(|kind| kind != "function") {
        let problem = format!("is {:?}; give function", call.r#type.unwrap_or_default());
        return Err(ApiError::bad(param("type", "type"), problem));
    }
    let Called { name, arguments } = call.function.unwrap_or_default();
    let name_param = param("function.name", "name");
    let name = name.ok_or_else(|| ApiError::bad(&*name_param, "is missing; give the function's name"))?;
    check_name(&name_param, &name)?;
    let arguments = arguments_of(&param("function.arguments", "arguments"), arguments)?;
    Ok(ValidCall { id, name, arguments })
}

/// Arguments as an object: some templates look into them.
fn arguments_of(param: &str, wire: Option<Value>) -> Result<Map<String, Value>, ApiError> {
    let parsed = match wire {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Map::new()),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|e| ApiError::bad(param, format!("must be a JSON object as text: {e}")))?,
        Some(value) => value,
    };
    match parsed {
        Value::Object(fields) => Ok(fields),
        _ => Err(ApiError::bad(param, "must be a JSON object, or one as text")),
    }
}

/// The texts of parts, a line each, as vLLM joins them.
pub(super) fn text_of(param: &str, parts: &[Part]) -> Result<String, ApiError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(wire: &Value) -> Result<Vec<Value>, ApiError> {
        messages(serde_json::from_value(wire.clone()).unwrap())
    }

    fn call(arguments: &Value) -> Value {
        json!({ "id": "call_1", "type": "function", "function": { "name": "f", "arguments": arguments } })
    }

    #[test]
    fn calls_and_their_answers_are_as_templates_take_them() {
        let round = |arguments: Value| {
            json!([
                { "role": "user", "content": "Hi" },
                { "role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [call(&arguments)] },
                { "role": "tool", "tool_call_id": "call_1", "content": [{ "type": "text", "text": "5" }] },
            ])
        };
        let expected = [
            json!({ "role": "user", "content": "Hi" }),
            json!({ "role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call(&json!({ "a": 1 }))] }),
            json!({ "role": "tool", "content": "5", "name": "f", "tool_call_id": "call_1" }),
        ];
        assert_eq!(checked(&round(json!("{\"a\": 1}"))).unwrap(), expected);
        assert_eq!(checked(&round(json!({ "a": 1 }))).unwrap(), expected);
        let none = checked(&round(json!(""))).unwrap();
        assert_eq!(none[1]["tool_calls"][0]["function"]["arguments"], json!({}));
    }

    #[test]
    fn what_no_template_could_print_is_refused_by_name() {
        let assistant = |call: Value| json!([{ "role": "assistant", "tool_calls": [call] }]);
        let answer = |id: Value| json!([{ "role": "user", "content": "Hi" }, { "role": "tool", "content": "5", "tool_call_id": id }]);
        for (wire, param) in [
            (answer(json!(null)), "messages[1].tool_call_id"),
            (answer(json!("call_1")), "messages[1].tool_call_id"),
            (
                json!([{ "role": "user", "content": "Hi", "tool_calls": [call(&json!("{}"))] }]),
                "messages[0].tool_calls",
            ),
            (assistant(json!({ "function": { "name": "f" } })), "messages[0].tool_calls[0].id"),
            (assistant(json!({ "id": "1", "type": "custom" })), "messages[0].tool_calls[0].type"),
            (assistant(json!({ "id": "1" })), "messages[0].tool_calls[0].function.name"),
            (
                assistant(json!({ "id": "1", "function": { "name": "a b" } })),
                "messages[0].tool_calls[0].function.name",
            ),
            (assistant(call(&json!("{"))), "messages[0].tool_calls[0].function.arguments"),
            (assistant(call(&json!("[1]"))), "messages[0].tool_calls[0].function.arguments"),
            (assistant(call(&json!(5))), "messages[0].tool_calls[0].function.arguments"),
            (json!([{ "role": "assistant", "content": null }]), "messages[0].content"),
        ] {
            assert_eq!(checked(&wire).unwrap_err().param.as_deref(), Some(param), "{wire}");
        }
    }
}
