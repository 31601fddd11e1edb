//! The tokens of the metadata as a `tokenizer.json` has them: a vocabulary, and added tokens.

use std::collections::hash_map::Entry;

use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::bpe::Vocab;

use super::GgufVocabulary;
use crate::text::tokenizer_json::added;

/// What a token is, from `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece that texts are made of.
    Normal,
    /// What stands for a text that no piece has.
    Unknown,
    /// Control information: found whole in a text, and left out when special tokens are skipped.
    Control,
    /// Found whole in a text, and part of it (Qwen3's `<think>`).
    UserDefined,
    /// A piece that no text has.
    Unused,
    /// One byte, `<0x0A>`.
    Byte,
}

impl Kind {
    /// Whether it is found whole in a text.
    const fn is_added(self) -> bool {
        self.is_special() || matches!(self, Self::UserDefined)
    }

    /// Whether it is left out when special tokens are skipped.
    pub(super) const fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

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
            if token.is_empty() || is_placeholder(token, id, kind(vocabulary, id)) {
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
        self.id(piece).filter(|&id| kind(self.vocabulary, id) == Kind::Normal)
    }

    /// All pieces that texts are made of, in the order of their ids.
    pub(super) fn normals(&self) -> impl Iterator<Item = (u32, &'a str)> {
        self.iter().filter(|&(id, _)| kind(self.vocabulary, id) == Kind::Normal)
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
        let kinds = self.iter().map(|(id, piece)| (id, piece, kind(self.vocabulary, id)));
        kinds.filter(|piece| piece.2.is_added()).map(|(id, piece, kind)| (id, piece, kind.is_special()))
    }
}

/// Whether writers made a token up for an id that the tokenizer has not: a row that pads a matrix.
/// Old ones called it user-defined.
fn is_placeholder(token: &str, id: u32, kind: Kind) -> bool {
    matches!(kind, Kind::Unused | Kind::UserDefined) && token == format!("[PAD{id}]")
}

/// What the metadata call a token.
pub(super) fn kind(vocabulary: &GgufVocabulary, id: u32) -> Kind {
    match vocabulary.token_types.get(id as usize) {
        Some(2) => Kind::Unknown,
        Some(3) => Kind::Control,
        Some(4) => Kind::UserDefined,
        Some(5) => Kind::Unused,
        Some(6) => Kind::Byte,
        None if named(vocabulary, id) => Kind::Control,
        _ => Kind::Normal,
    }
}

/// Whether the metadata names an id as a special token.
fn named(vocabulary: &GgufVocabulary, id: u32) -> bool {
    [
        vocabulary.bos(),
        vocabulary.eos(),
        vocabulary.unknown(),
        vocabulary.eot_token_id,
        vocabulary.eom_token_id,
        vocabulary.separator_token_id,
        vocabulary.padding_token_id,
        vocabulary.mask_token_id,
    ]
    .contains(&Some(id))
}
