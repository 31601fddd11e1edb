//! Fields that are known and that a route cannot follow: refused by name where they ask for
//! something.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Fields that change the answer elsewhere, with what to do where nothing follows them.
const REFUSED: [(&str, &str); 26] = [
    ("tools", CHATS),
    ("functions", "is an old form; give tools, each with type function"),
    ("function_call", "is an old form; give tool_choice"),
    ("tool_choice", CHATS),
    ("json_schema", STRUCTURED),
    ("regex", STRUCTURED),
    ("ebnf", STRUCTURED),
    ("grammar", STRUCTURED),
    ("use_beam_search", "is not supported; sample n answers instead"),
    ("length_penalty", "is for beam search, which is not supported; leave it out"),
    ("watermarking", "is not supported; leave it out"),
    ("repetition_detection", "is not supported; leave it out, or use repetition_penalty"),
    ("thinking_token_budget", CHATS),
    ("logprob_token_ids", "is not supported; ask for top_logprobs"),
    ("return_hidden_states", "is not supported; leave it out"),
    ("kv_transfer_params", "is for split prefill and decoding, which is off; leave it out"),
    ("ec_transfer_params", "is for split encoding, which is off; leave it out"),
    ("lora_path", "names an adapter; adapters are not supported"),
    ("modalities", "may only be [\"text\"]"),
    ("audio", "is not supported; this model makes text"),
    ("prediction", "is not supported; leave it out"),
    ("suffix", "is not supported; leave it out"),
    ("truncation_side", "may only be left: the end of a prompt is what is kept"),
    ("include_reasoning", CHATS),
    ("return_prompt_text", "is not supported; leave it out"),
    ("return_token_offsets", "is not supported; leave it out"),
];

const CHATS: &str = "is for conversations, and this route has none: leave it out";
const STRUCTURED: &str =
    "is another server's name for structured output; give structured_outputs or response_format";

/// Fields that change nothing here: for others' statistics, caches, billing, or for what routers
/// fill in. Known, so that nobody is warned of them.
const WITHOUT_EFFECT: [&str; 25] = [
    "user",
    "store",
    "metadata",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
    "session_id",
    "session_params",
    "rid",
    "stream_interval",
    "stream_reasoning",
    "separate_reasoning",
    "no_stop_trim",
    "spaces_between_special_tokens",
    "truncation",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "vllm_xargs",
    "data_parallel_rank",
    "routed_experts_prompt_start",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
];

/// Errors if a field asks for what the route has not. What its types have read it has.
pub(crate) fn check(fields: &Map<String, Value>, is_read: impl Fn(&str) -> bool) -> Result<(), ApiError> {
    for (name, problem) in REFUSED {
        if fields.get(name).is_some_and(|value| !is_read(name) && !asks_for_nothing(name, value)) {
            return Err(ApiError::bad(name, problem));
        }
    }
    Ok(())
}

/// Whether a field is known to have no effect, or was refused if it had one.
pub(crate) fn is_known(name: &str) -> bool {
    WITHOUT_EFFECT.contains(&name) || REFUSED.iter().any(|(known, _)| *known == name)
}

fn asks_for_nothing(name: &str, value: &Value) -> bool {
    match (name, value) {
        ("include_reasoning", Value::Bool(on)) => *on,
        ("truncation_side", Value::String(side)) => side == "left",
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Array(list)) if list.is_empty() => true,
        ("tool_choice" | "function_call", Value::String(choice)) => choice == "none" || choice == "auto",
        ("length_penalty", Value::Number(penalty)) => penalty.as_f64() == Some(1.0),
        ("modalities", Value::Array(kinds)) => kinds.iter().all(|kind| kind == "text"),
        (_, Value::String(text)) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(fields: &Value) -> Option<String> {
        check(fields.as_object().unwrap(), |name| name == "watermarking").err().and_then(|error| error.param)
    }

    #[test]
    fn what_asks_for_something_is_refused_by_name() {
        for (fields, param) in [
            (json!({"tools": [{"type": "function"}]}), "tools"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"ebnf": "root ::= \"a\""}), "ebnf"),
            (json!({"use_beam_search": true}), "use_beam_search"),
            (json!({"suffix": "end"}), "suffix"),
            (json!({"length_penalty": 2}), "length_penalty"),
            (json!({"include_reasoning": false}), "include_reasoning"),
        ] {
            assert_eq!(refused(&fields).as_deref(), Some(param), "{fields}");
        }
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        for fields in [
            json!({"tools": [], "tool_choice": "auto", "suffix": null}),
            json!({"use_beam_search": false, "length_penalty": 1, "modalities": ["text"], "grammar": null}),
            json!({"return_hidden_states": false, "anything": 5, "watermarking": "read"}),
        ] {
            assert_eq!(refused(&fields), None, "{fields}");
        }
    }
}
