//! The tokenizer's part of the metadata.

use nvllm_gguf::Metadata;

use crate::Result;
use crate::text::GgufVocabulary;

/// Templates beside the default one.
const NAMED: &str = "tokenizer.chat_template.";

/// What the metadata say of the tokenizer; none, if there is none.
pub(super) fn read(metadata: &Metadata) -> Result<Option<GgufVocabulary>> {
    let ggml = |key: &str| format!("tokenizer.ggml.{key}");
    let Some(model) = metadata.str_opt(&ggml("model"))? else { return Ok(None) };
    let strings = |key: &str| -> Result<Vec<String>> {
        Ok(metadata.strings(&ggml(key))?.into_iter().map(String::from).collect())
    };
    // What is no id (-1 in some files) names nothing.
    let id = |key: &str| -> Option<u32> { u32::try_from(metadata.u64_opt(&ggml(key)).ok()??).ok() };
    let template = |key: &str| -> Result<Option<(String, String)>> {
        let Some(name) = key.strip_prefix(NAMED) else { return Ok(None) };
        Ok(metadata.str_opt(key)?.map(|text| (name.to_owned(), text.to_owned())))
    };
    Ok(Some(GgufVocabulary {
        model: model.to_owned(),
        pre: metadata.str_opt(&ggml("pre"))?.map(String::from),
        tokens: strings("tokens")?,
        scores: metadata.f32s(&ggml("scores"))?,
        token_types: metadata.i32s(&ggml("token_type"))?,
        merges: strings("merges")?,
        bos_token_id: id("bos_token_id"),
        eos_token_id: id("eos_token_id"),
        eot_token_id: id("eot_token_id"),
        eom_token_id: id("eom_token_id"),
        unknown_token_id: id("unknown_token_id"),
        separator_token_id: id("seperator_token_id"),
        padding_token_id: id("padding_token_id"),
        mask_token_id: id("mask_token_id"),
        add_bos_token: metadata.bool_opt(&ggml("add_bos_token"))?,
        add_eos_token: metadata.bool_opt(&ggml("add_eos_token"))?,
        add_space_prefix: metadata.bool_opt(&ggml("add_space_prefix"))?,
        chat_template: metadata.str_opt("tokenizer.chat_template")?.map(String::from),
        named_chat_templates: metadata
            .keys()
            .filter_map(|key| template(key).transpose())
            .collect::<Result<_>>()?,
    }))
}
