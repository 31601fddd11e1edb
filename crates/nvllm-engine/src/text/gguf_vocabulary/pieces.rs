//! The tokens of the metadata as a `tokenizer.json` has them: a vocabulary, and added tokens.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

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

/// The tokens by id and by text. Each text is there once, with its first id.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    /// In the order of their ids.
    pieces: Vec<(u32, &'a str, Kind)>,
    /// Places in `pieces`.
    places: HashMap<&'a str, usize>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(vocabulary: &'a GgufVocabulary) -> Self {
        let mut pieces = Vec::with_capacity(vocabulary.tokens.len());
        let mut places = HashMap::with_capacity(vocabulary.tokens.len());
        for (id, token) in (0..).zip(&vocabulary.tokens) {
            let kind = kind(vocabulary, id);
            if token.is_empty() || is_placeholder(token, id, kind) || places.contains_key(token.as_str()) {
                continue;
            }
            places.insert(token.as_str(), pieces.len());
            pieces.push((id, token.as_str(), kind));
        }
        Self { pieces, places }
    }

    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.places.get(piece).map(|&place| self.pieces[place].0)
    }

    /// The id of a piece that texts are made of.
    pub(super) fn normal(&self, piece: &str) -> Option<u32> {
        let (id, _, kind) = self.pieces[*self.places.get(piece)?];
        (kind == Kind::Normal).then_some(id)
    }

    /// All pieces that texts are made of, in the order of their ids.
    pub(super) fn normals(&self) -> impl Iterator<Item = (u32, &'a str)> {
        self.pieces.iter().filter(|piece| piece.2 == Kind::Normal).map(|&(id, piece, _)| (id, piece))
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        let place = self.pieces.binary_search_by_key(&id, |piece| piece.0);
        place.is_ok_and(|place| special(self.pieces[place].2))
    }

    /// The vocabulary of a `tokenizer.json`. Added tokens are among it, so that they keep their
    /// ids.
    pub(super) fn vocab(&self) -> Value {
        self.pieces.iter().map(|&(id, piece, _)| (piece.to_owned(), id.into())).collect::<Map<_, _>>().into()
    }

    /// The added tokens of a `tokenizer.json`. They are looked for in the text as it is: writers
    /// have normalised the names of those that are not special.
    pub(super) fn added_tokens(&self) -> Value {
        let whole = |kind| special(kind) || kind == Kind::UserDefined;
        let entry =
            |&(id, piece, kind)| added(id, piece, &json!({"special": special(kind), "normalized": false}));
        self.pieces.iter().filter(|piece| whole(piece.2)).map(entry).collect()
    }
}

/// Whether writers made a token up for an id that the tokenizer has not: a row that pads a matrix.
/// Old ones called it user-defined.
fn is_placeholder(token: &str, id: u32, kind: Kind) -> bool {
    matches!(kind, Kind::Unused | Kind::UserDefined) && token == format!("[PAD{id}]")
}

fn special(kind: Kind) -> bool {
    matches!(kind, Kind::Control | Kind::Unknown)
}

fn kind(vocabulary: &GgufVocabulary, id: u32) -> Kind {
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
