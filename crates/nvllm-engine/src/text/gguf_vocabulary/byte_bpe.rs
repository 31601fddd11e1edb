//! `gpt2`: byte-level BPE, with its merges in the file.

use serde_json::json;

use super::metadata::GgufVocabulary;
use super::parts::{Merges, Parts};
use super::pieces::Pieces;
use super::template::template;
use super::words::Words;
use crate::text::tokenizer_json::byte_level;

pub(super) fn parts<'a>(vocabulary: &'a GgufVocabulary, pieces: Pieces<'a>) -> Result<Parts<'a>, String> {
    let words = Words::named(vocabulary.pre.as_deref())?;
    let post_processor = match template(vocabulary, words.adds_bos)? {
        Some(template) => json!({"type": "Sequence", "processors": [byte_level(false), template]}),
        None => byte_level(false),
    };
    Ok(Parts {
        normalizer: words.normalizer,
        pre_tokenizer: words.pre_tokenizer,
        post_processor,
        decoder: byte_level(false),
        merges: merges(&vocabulary.merges, &pieces)?,
        pieces,
        unknown: None,
        byte_fallback: false,
        ignore_merges: words.ignore_merges,
    })
}

/// The merges as pairs. A piece may begin with a space (one that is not written in letters for
/// bytes), so the two part at a space after the first character.
pub(super) fn merges<'a>(lines: &'a [String], pieces: &Pieces<'_>) -> Result<Merges<'a>, String> {
    let mut joined = String::new();
    let pair = |(at, line): (usize, &'a String)| {
        let space = line.char_indices().skip(1).find(|&(_, c)| c == ' ');
        let Some((left, right)) = space.map(|(space, _)| (&line[..space], &line[space + 1..])) else {
            return Err(format!(
                "entry {at} of tokenizer.ggml.merges, {line:?}, is not two pieces and a space between them"
            ));
        };
        joined.clear();
        joined.extend([left, right]);
        match [left, right, &joined].into_iter().find(|piece| pieces.id(piece).is_none()) {
            Some(piece) => Err(format!(
                "entry {at} of tokenizer.ggml.merges, {line:?}, needs {piece:?}, which tokenizer.ggml.tokens has not"
            )),
            None => Ok([left, right]),
        }
    };
    lines.iter().enumerate().map(pair).collect()
}
