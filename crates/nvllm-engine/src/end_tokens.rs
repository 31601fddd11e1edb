//! Which tokens end a text.
//!
//! A checkpoint says it in three places that fine-tunes leave in disagreement: a chat model made of
//! a base model may end its turns with a token that only its tokenizer names. No place is better
//! than the others, and a text that runs on to its limit is worse than one that ends at any of
//! them, so all count, as in vLLM and llama.cpp.

use nvllm_core::{HfConfig, TokenId};
use serde_json::Value;

use crate::text::GenerationConfig;

/// The end tokens of generation_config.json and config.json, and the one that the tokenizer has
/// `named`, as far as the vocabulary has them.
pub(crate) fn end_tokens(
    generation: &GenerationConfig,
    config: &HfConfig,
    named: Option<u32>,
    vocab_size: usize,
) -> Vec<TokenId> {
    let mut tokens = Vec::new();
    for id in generation.eos_token_ids.iter().copied().chain(ids(config)).chain(named) {
        let token = TokenId(id);
        if (id as usize) < vocab_size && !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens
}

/// `eos_token_id` of config.json: a number or a list. What is no id (-1 means none) ends nothing.
fn ids(config: &HfConfig) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match config.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        one => one.and_then(id).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(generation: &str, config: &str, named: Option<u32>) -> Vec<u32> {
        let generation = GenerationConfig::from_bytes(generation.as_bytes(), Path::new("g"));
        let config = HfConfig::parse(config.as_bytes()).unwrap();
        let tokens = end_tokens(&generation, &config, named, 10);
        tokens.into_iter().map(|token| token.0).collect()
    }

    #[test]
    fn all_three_places_count_once_each() {
        let named = Some(7);
        assert_eq!(of(r#"{"eos_token_id": 3}"#, "{}", named), [3, 7]);
        assert_eq!(of(r#"{"eos_token_id": [3, 4]}"#, r#"{"eos_token_id": 5}"#, named), [3, 4, 5, 7]);
        assert_eq!(of("{}", r#"{"eos_token_id": [7, 3, 7]}"#, named), [7, 3]);
        assert_eq!(of("{}", "{}", named), [7]);
        assert!(of("{}", "{}", None).is_empty());
    }

    #[test]
    fn what_the_vocabulary_has_not_ends_nothing() {
        assert_eq!(of("{}", r#"{"eos_token_id": [10, 9]}"#, Some(10)), [9]);
        assert!(of("{}", r#"{"eos_token_id": -1}"#, None).is_empty());
        assert!(of("{}", r#"{"eos_token_id": 4294967296}"#, None).is_empty());
    }
}
