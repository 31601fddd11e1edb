//! Names of a model's files in the layout of a Hugging Face repository.

use std::collections::BTreeSet;

pub(super) const CONFIG: &str = "config.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// What says what tokenizer.json would: vocabulary, merges, added tokens, names of special tokens.
pub(super) const BPE: [&str; 4] =
    ["vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"];
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const CHAT_TEMPLATE: &str = "chat_template.jinja";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const WEIGHT_INDEX: &str = "model.safetensors.index.json";

/// Whether there is a model in the layout of a Hugging Face repository.
pub(super) fn has_safetensors(names: &BTreeSet<String>) -> bool {
    let has = |name: &str| names.contains(name);
    has(CONFIG) && (has(WEIGHTS) || has(WEIGHT_INDEX) || !unindexed(names).is_empty())
}

/// Weights under names of their own: all safetensors files but those in folders, adapters and
/// Mistral's format, whose tensors have other names. Of those that belong to a quantised variant or
/// another format the reader says so.
pub(super) fn unindexed(names: &BTreeSet<String>) -> Vec<&str> {
    let is_weights = |name: &&str| {
        name.ends_with(".safetensors")
            && !name.starts_with("consolidated")
            && !name.starts_with("adapter_")
            && !name.contains('/')
    };
    names.iter().map(String::as_str).filter(is_weights).collect()
}
