//! How much an answer thinks, and whether that is told.

use serde_json::{Map, Value, json};

use super::within;
use crate::error::ApiError;
use crate::served::Served;
use crate::wire::chat::ChatFields;

const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// What the template is given beside the messages. A request's own words go before the server's,
/// and the general switch before the particular ones.
pub(super) fn template_kwargs(chat: &ChatFields, served: &Served) -> Result<Map<String, Value>, ApiError> {
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

/// Tokens of thoughts at most. Errors if the model has none.
pub(super) fn budget(chat: &ChatFields, served: &Served) -> Result<Option<usize>, ApiError> {
    let own = within("thinking_token_budget", chat.thinking_token_budget, 0, i64::from(u32::MAX))?;
    // Of a model that was asked not to think there is nothing to limit.
    let form = chat.thinking.as_ref().filter(|form| form["type"] == "enabled");
    let within_form = match form.and_then(|form| form.get("budget_tokens")) {
        None | Some(Value::Null) => None,
        Some(value) => {
            let problem = || ApiError::bad("thinking.budget_tokens", "must be a whole number, at least 1");
            let tokens = value.as_i64().ok_or_else(problem)?;
            within("thinking.budget_tokens", Some(tokens), 1, i64::from(u32::MAX))?
        }
    };
    if served.answers.reasoning.is_none() {
        // Whoever asks for thoughts of a model without any gets none.
        return match own {
            Some(_) => {
                let problem =
                    "is for models that think, and this one's thoughts are not told apart: leave it out";
                Err(ApiError::bad("thinking_token_budget", problem))
            }
            None => Ok(None),
        };
    }
    Ok(own.or(within_form))
}
