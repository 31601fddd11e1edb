//! Parts of a `tokenizer.json`, for tokenizers that come in another form and are put together.

use std::path::Path;

use serde_json::{Value, json};

use crate::EngineError;

/// Qwen2's words: contractions, letters with one leading sign, single digits, signs, lines, blanks.
pub(super) const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Cuts a text where a regular expression begins and ends to match.
pub(super) fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

/// Bytes as letters; words are cut before.
pub(super) fn byte_level(add_prefix_space: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": false, "use_regex": false})
}

/// An entry of `added_tokens`; what is not said is off, and ordinary tokens are looked for in
/// normalised text.
pub(super) fn added(id: u32, content: &str, given: &Value) -> Value {
    let flag = |field: &str, default| given.get(field).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", false);
    json!({
        "id": id,
        "content": content,
        "single_word": flag("single_word", false),
        "lstrip": flag("lstrip", false),
        "rstrip": flag("rstrip", false),
        "normalized": flag("normalized", !special),
        "special": special,
    })
}

/// The error of a file that makes no tokenizer.
pub(super) fn unusable(path: &Path, problem: String) -> EngineError {
    EngineError::Tokenizer { path: path.to_path_buf(), problem }
}
