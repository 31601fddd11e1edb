//! Messages as clients write them, and as templates read them.

use serde_json::{Map, Value as Json};

/// The messages as templates of Hugging Face models expect them; `None` if they are already.
///
/// * The arguments of a call are an object, where clients of `OpenAI`'s API send its JSON text.
///   What is no object's text stays as it is: a model wrote it so.
/// * Thoughts are `reasoning_content`, where newer clients say `reasoning`.
pub(super) fn for_template(messages: &[Json]) -> Option<Vec<Json>> {
    let differs = |message: &Json| {
        message.as_object().is_some_and(|fields| is_renamed(fields) || has_text_arguments(fields))
    };
    if !messages.iter().any(differs) {
        return None;
    }
    let mut messages = messages.to_vec();
    for fields in messages.iter_mut().filter_map(Json::as_object_mut) {
        if is_renamed(fields)
            && let Some(thoughts) = fields.get("reasoning").cloned()
        {
            fields.insert("reasoning_content".into(), thoughts);
        }
        for call in fields.get_mut("tool_calls").and_then(Json::as_array_mut).into_iter().flatten() {
            if let Some(arguments) = arguments_mut(call)
                && let Some(object) = arguments.as_str().and_then(object)
            {
                *arguments = object;
            }
        }
    }
    Some(messages)
}

fn is_renamed(message: &Map<String, Json>) -> bool {
    message.get("reasoning").is_some_and(Json::is_string)
        && !message.get("reasoning_content").is_some_and(Json::is_string)
}

fn has_text_arguments(message: &Map<String, Json>) -> bool {
    let calls = message.get("tool_calls").and_then(Json::as_array).into_iter().flatten();
    let mut arguments = calls.filter_map(|call| call.get("function").unwrap_or(call).get("arguments"));
    arguments.any(Json::is_string)
}

fn arguments_mut(call: &mut Json) -> Option<&mut Json> {
    let inner = if call.get("function").is_some() { call.get_mut("function")? } else { call };
    inner.get_mut("arguments")
}

/// The object that a text is. No text is no arguments.
fn object(text: &str) -> Option<Json> {
    if text.trim().is_empty() {
        return Some(Json::Object(Map::new()));
    }
    serde_json::from_str(text).ok().filter(Json::is_object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_become_objects_and_what_is_none_stays() {
        let calls = |arguments: [Json; 4]| {
            let calls: Vec<_> =
                arguments.iter().map(|a| json!({"function": {"name": "f", "arguments": a}})).collect();
            json!([{"role": "assistant", "content": null, "tool_calls": calls}])
        };
        let sent = calls([json!("{\"b\": 1, \"a\": 2}"), json!(""), json!("{\"b\": "), json!({"c": "{}"})]);
        let read = calls([json!({"b": 1, "a": 2}), json!({}), json!("{\"b\": "), json!({"c": "{}"})]);
        assert_eq!(for_template(sent.as_array().unwrap()), read.as_array().cloned());
    }

    #[test]
    fn thoughts_have_one_name() {
        let sent = [json!({"role": "assistant", "content": "a", "reasoning": "b"}), json!({"role": "user"})];
        let read = for_template(&sent).unwrap();
        assert_eq!(read[0]["reasoning_content"], "b");
        let both = [json!({"role": "assistant", "reasoning": "b", "reasoning_content": "c"})];
        assert_eq!(for_template(&both), None);
        assert_eq!(for_template(&[json!("no message"), json!({"role": "tool", "content": "{}"})]), None);
    }
}
