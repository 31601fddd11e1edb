//! The token that ends a text by the tokenizer's own word.

use serde_json::Value;

/// What `tokenizer_config.json` names as `eos_token`: a text, or an object with the text in
/// `content`.
///
/// A file that is not JSON names none: reading the chat template says so.
pub(crate) fn end_token(tokenizer_config: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(tokenizer_config).ok()?;
    let token = &config["eos_token"];
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_an_object_or_none() {
        assert_eq!(end_token(br#"{"eos_token": "</s>"}"#).as_deref(), Some("</s>"));
        assert_eq!(
            end_token(br#"{"eos_token": {"content": "</s>", "lstrip": false}}"#).as_deref(),
            Some("</s>")
        );
        for none in [&b"{}"[..], br#"{"eos_token": null}"#, br#"{"eos_token": false}"#, b"["] {
            assert_eq!(end_token(none), None);
        }
    }
}
