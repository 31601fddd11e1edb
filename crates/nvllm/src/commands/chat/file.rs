//! Conversations in files: a JSON list of messages in OpenAI's form.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

/// Roles of messages that a conversation goes on from.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Writes `messages` to a file, in place of what it held.
pub(super) fn save(path: &Path, messages: &[Value]) -> Result<()> {
    let text = serde_json::to_string_pretty(messages)?;
    // As words: an I/O error in the chain is the terminal's, which ends the chat.
    std::fs::write(path, text + "\n").map_err(|e| anyhow!("cannot write {}: {e}", path.display()))
}

/// Reads messages from a file: a list, or an object whose `messages` is one, as in a request.
pub(super) fn load(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(|e| anyhow!("cannot read {}: {e}", path.display()))?;
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("{}: not valid JSON", path.display()))?;
    let list = match value {
        Value::Object(mut fields) => fields.remove("messages").unwrap_or_default(),
        list => list,
    };
    let Value::Array(messages) = list else {
        bail!("{}: holds no list of messages; save one with /save", path.display())
    };
    for (at, message) in messages.iter().enumerate() {
        if !message["role"].as_str().is_some_and(|role| ROLES.contains(&role)) {
            bail!("{}: message {at} has no role of {}", path.display(), ROLES.join(", "));
        }
        if !(message["content"].is_string() || message["content"].is_null()) {
            bail!("{}: message {at} has a content that is no text", path.display());
        }
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_what_is_wrong_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("talk.json");
        let messages =
            vec![json!({"role": "user", "content": "é\n"}), json!({"role": "assistant", "content": null})];
        save(&path, &messages).unwrap();
        assert_eq!(load(&path).unwrap(), messages);
        std::fs::write(&path, json!({"model": "m", "messages": messages}).to_string()).unwrap();
        assert_eq!(load(&path).unwrap(), messages);
        for (text, words) in [
            ("{", "not valid JSON"),
            ("{}", "no list of messages"),
            ("3", "no list of messages"),
            ("[{\"content\": \"a\"}]", "message 0 has no role"),
            ("[{\"role\": \"critic\"}]", "message 0 has no role"),
            ("[{\"role\": \"user\", \"content\": []}]", "message 0 has a content that is no text"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("talk.json"), "{error}");
        }
        assert!(load(&dir.path().join("none.json")).unwrap_err().to_string().contains("cannot read"));
        assert!(save(dir.path(), &messages).unwrap_err().to_string().contains("cannot write"));
    }
}
