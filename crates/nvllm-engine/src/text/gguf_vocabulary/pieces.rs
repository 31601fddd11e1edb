//! The tokens of the metadata as a `tokenizer.json` has them: a vocabulary, and added tokens.

use std::collections::hash_map::Entry;

use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::bpe::Vocab;

use super::kind::Kind;
use super::metadata::GgufVocabulary;
use crate::text::tokenizer_json::added;

/// The tokens by id and by text. Each text is there once, with its first id.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    vocabulary: &'a GgufVocabulary,
    /// In the order of their ids.
    in_order: Vec<(u32, &'a str)>,
    ids: Vocab,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(vocabulary: &'a GgufVocabulary) -> Self {
        let mut in_order = Vec::with_capacity(vocabulary.tokens.len());
        let mut ids = Vocab::with_capacity(vocabulary.tokens.len());
        for (id, token) in (0..).zip(&vocabulary.tokens) {
            if token.is_empty() || is_placeholder(token, id, vocabulary.kind(id)) {
                continue;
            }
            if let Entry::Vacant(place) = ids.entry(token.clone()) {
                place.insert(id);
                in_order.push((id, token.as_str()));
            }
        }
        Self { vocabulary, in_order, ids }
    }

    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece).copied()
    }

    /// The id of a piece that texts are made of.
    pub(super) fn normal(&self, piece: &str) -> Option<u32> {
        self.id(piece).filter(|&id| self.vocabulary.kind(id) == Kind::Normal)
    }

    /// All pieces that texts are made of, in the order of their ids.
    pub(super) fn normals(&self) -> impl Iterator<Item = (u32, &'a str)> {
        self.iter().filter(|&(id, _)| self.vocabulary.kind(id) == Kind::Normal)
    }

    /// The vocabulary in the order of its ids. Added tokens are among it, so that they keep theirs.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &'a str)> {
        self.in_order.iter().copied()
    }

    /// The same by text, as the library has it.
    pub(super) fn into_vocab(self) -> Vocab {
        self.ids
    }

    /// The added tokens of a `tokenizer.json`. They are looked for in the text as it is: writers
    /// have normalised the names of those that are not special.
    pub(super) fn added_json(&self) -> Value {
        let entry =
            |(id, piece, special)| added(id, piece, &json!({"special": special, "normalized": false}));
        self.whole().map(entry).collect()
    }

    /// The same as the library has them.
    pub(super) fn added(&self) -> Vec<AddedToken> {
        let entry = |(_, piece, special)| AddedToken::from(piece, special).normalized(false);
        self.whole().map(entry).collect()
    }

    /// Tokens that are found whole in a text, and whether they are special.
    fn whole(&self) -> impl Iterator<Item = (u32, &'a str, bool)> {
        let kinds = self.iter().map(|(id, piece)| (id, piece, self.vocabulary.kind(id)));
        kinds.filter(|piece| piece.2.is_added()).map(|(id, piece, kind)| (id, piece, kind.is_special()))
    }
}

/// Whether writers made a token up for an id that the tokenizer has not: a row that pads a matrix.
/// Old ones called it user-defined.
fn is_placeholder(token: &str, id: u32, kind: Kind) -> bool {
    matches!(kind, Kind::Unused | Kind::UserDefined) && token == format!("[PAD{id}]")
}
