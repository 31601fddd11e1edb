//! `llama`: `SentencePiece` BPE, whose merges follow from its pieces.
//!
//! `SentencePiece` joins the two neighbours that make the piece of the highest score. A
//! `tokenizer.json` says so with merges: each piece, split in every way into two pieces, the
//! highest score first. Among equal scores (Llama 2's runs of blanks all have -1e9) the lower id is
//! first, then the lower id of the left part, then of the right part. Mistral's file has that
//! order, Llama 2's goes by the parts at once; both give the same tokens.
//!
//! Source: `SentencePieceExtractor` in `convert_slow_tokenizer.py` of transformers 4.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::byte_bpe::merges;
use super::metadata::GgufVocabulary;
use super::parts::{Merges, Parts};
use super::pieces::Pieces;
use super::template::template;

/// Longer pieces are never made by merges: a bound on the work that a file asks for. The longest
/// of Llama 2 has 48 bytes.
const LONGEST_MERGED: usize = 512;

/// The mark that stands for a space.
const SPACE: &str = "▁";

pub(super) fn parts<'a>(vocabulary: &'a GgufVocabulary, pieces: Pieces<'a>) -> Result<Parts<'a>, String> {
    let add_space_prefix = vocabulary.add_space_prefix.unwrap_or(true);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_space_prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    // Merges that the file has say more than what follows from scores.
    let merges = if vocabulary.merges.is_empty() {
        merges_by_score(vocabulary, &pieces)?
    } else {
        merges(&vocabulary.merges, &pieces)?
    };
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        post_processor: template(vocabulary, true)?.unwrap_or_default(),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        pieces,
        merges,
        unknown: vocabulary.unknown().map(|id| vocabulary.text(id)),
        byte_fallback: true,
        ignore_merges: false,
    })
}

fn merges_by_score<'a>(vocabulary: &GgufVocabulary, pieces: &Pieces<'a>) -> Result<Merges<'a>, String> {
    if vocabulary.scores.is_empty() {
        return Err(
            "tokenizer.ggml.scores is absent, and a tokenizer of the kind llama is made of them".into()
        );
    }
    if let Some(id) = vocabulary.scores.iter().position(|score| score.is_nan()) {
        return Err(format!("entry {id} of tokenizer.ggml.scores is not a number; the file is damaged"));
    }
    let mut ranked = Vec::new();
    for (id, piece) in pieces.normals().filter(|(_, piece)| piece.len() <= LONGEST_MERGED) {
        // + 0.0, since a total order tells -0 from 0.
        let score = vocabulary.scores.get(id as usize).copied().unwrap_or_default() + 0.0;
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(l), Some(r)) = (pieces.normal(left), pieces.normal(right)) {
                ranked.push((Reverse(Score(score)), id, l, r, [left, right]));
            }
        }
    }
    ranked.sort_unstable();
    Ok(ranked.into_iter().map(|(.., pair)| pair).collect())
}

/// A score that is a number.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score(f32);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
