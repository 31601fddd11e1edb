//! The tokens around a text.

use serde_json::{Map, Value, json};

use super::metadata::GgufVocabulary;

/// The tokens that go before and after each text, as a post-processor; none where none do.
pub(super) fn template(vocabulary: &GgufVocabulary, adds_bos: bool) -> Result<Option<Value>, String> {
    let at = |wanted: bool, id: Option<u32>, which: &str| match (wanted, id) {
        (false, _) => Ok(None),
        (true, Some(id)) => Ok(Some(id)),
        (true, None) => Err(format!(
            "tokenizer.ggml.add_{which}_token is true and no token of the vocabulary is tokenizer.ggml.{which}_token_id"
        )),
    };
    // A kind's default asks for the token only where there is one.
    let adds_bos = vocabulary.add_bos_token.unwrap_or(adds_bos && vocabulary.bos().is_some());
    let bos = at(adds_bos, vocabulary.bos(), "bos")?;
    let eos = at(vocabulary.add_eos_token.unwrap_or(false), vocabulary.eos(), "eos")?;
    if bos.or(eos).is_none() {
        return Ok(None);
    }
    let special = |id: u32| json!({"SpecialToken": {"id": vocabulary.text(id), "type_id": 0}});
    let around = |sequence: &str| {
        let middle = json!({"Sequence": {"id": sequence, "type_id": 0}});
        bos.map(special).into_iter().chain([middle]).chain(eos.map(special)).collect::<Vec<_>>()
    };
    let tokens: Map<String, Value> = bos
        .iter()
        .chain(&eos)
        .map(|&id| {
            (
                vocabulary.text(id).to_owned(),
                json!({"id": vocabulary.text(id), "ids": [id], "tokens": [vocabulary.text(id)]}),
            )
        })
        .collect();
    let pair = [around("A"), around("B")].concat();
    Ok(Some(
        json!({"type": "TemplateProcessing", "single": around("A"), "pair": pair, "special_tokens": tokens}),
    ))
}
