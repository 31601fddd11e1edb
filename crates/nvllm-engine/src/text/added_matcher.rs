//! Splits a text at the added tokens that it names, as the `tokenizers` library does, but leaves
//! out the names that a caller calls text.
//!
//! The library can ignore all special tokens of a text or none. A rendered conversation holds both
//! kinds: the template's own, and those that a stranger wrote into a message. Encoding the text in
//! parts is no way out, because a part's first word, and blanks beside a token, are encoded in
//! other ways than in the middle of a text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use regex::Regex;
use tokenizers::normalizer::Range as Referential;
use tokenizers::{
    AddedVocabulary, NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, Token,
};

/// A piece of a text, with its token if the piece names one.
type Piece = (NormalizedString, Option<Vec<Token>>);

/// Tells by its bytes in the text whether the name of a special token is text.
pub(super) type IsText<'a> = &'a dyn Fn(Range<usize>) -> bool;

/// The added vocabulary, as automata.
#[derive(Debug)]
pub(super) struct AddedMatcher {
    /// Tokens that are looked for in the text as it stands.
    raw: Index,
    /// Tokens that are looked for in the normalized text, by their normalized names.
    normalized: Index,
    /// `\w`, which a `single_word` token may not stand beside.
    word: Regex,
}

#[derive(Debug)]
struct Index {
    automaton: AhoCorasick,
    /// In the order of the automaton's patterns.
    tokens: Vec<Flags>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // the library's fields
struct Flags {
    id: u32,
    special: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

impl AddedMatcher {
    /// Errors if the tokens' names are too many for an automaton.
    pub(super) fn new(vocabulary: &AddedVocabulary) -> Result<Self, String> {
        let word = Regex::new(r"\w").map_err(|e| e.to_string())?;
        Ok(Self { raw: Index::new(vocabulary, false)?, normalized: Index::new(vocabulary, true)?, word })
    }

    /// Splits and normalizes a text. Where `is_text` says so, a special token's name is left in the
    /// text, and what it overlaps may still be a token.
    pub(super) fn split(
        &self,
        text: &str,
        normalizer: Option<&NormalizerWrapper>,
        is_text: IsText<'_>,
    ) -> tokenizers::Result<PreTokenizedString> {
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| self.raw.split(&piece, &self.word, is_text))?;
        pieces.split(|_, mut piece| {
            if let Some(normalizer) = normalizer {
                normalizer.normalize(&mut piece)?;
            }
            self.normalized.split(&piece, &self.word, is_text)
        })?;
        Ok(pieces)
    }
}

impl Index {
    /// Of the tokens that are, or are not, matched against normalized text.
    fn new(vocabulary: &AddedVocabulary, normalized: bool) -> Result<Self, String> {
        let mut tokens = Vec::new();
        for (&id, token) in vocabulary.get_added_tokens_decoder() {
            let name = vocabulary.simple_id_to_token(id).unwrap_or_else(|| token.content.clone());
            if token.normalized == normalized && !name.is_empty() {
                let flags = Flags {
                    id,
                    special: token.special,
                    single_word: token.single_word,
                    lstrip: token.lstrip,
                    rstrip: token.rstrip,
                };
                tokens.push((flags, name));
            }
        }
        tokens.sort_unstable_by_key(|(flags, _)| flags.id);
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(_, name)| name))
            .map_err(|e| e.to_string())?;
        Ok(Self { automaton, tokens: tokens.into_iter().map(|(flags, _)| flags).collect() })
    }

    fn split(
        &self,
        piece: &NormalizedString,
        word: &Regex,
        is_text: IsText<'_>,
    ) -> tokenizers::Result<Vec<Piece>> {
        let text = piece.get();
        let slice = |range: Range<usize>| {
            let slice = piece.slice(Referential::Normalized(range));
            slice.ok_or_else(|| tokenizers::Error::from("a token's name is not on characters' bounds"))
        };
        let mut pieces = Vec::new();
        let (mut at, mut done) = (0, 0);
        while let Some(found) = self.automaton.find(Input::new(text).span(at..text.len())) {
            let token = &self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if token.special && is_text(in_original(piece, start..end)) {
                // One character on, as the template's own token may follow a name's beginning.
                at = start + text[start..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            at = end;
            if token.single_word && touches_word(text, start..end, word) {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                pieces.push((slice(done..start)?, None));
            }
            let named = slice(start..end)?;
            let name = named.get().to_owned();
            let len = name.len();
            pieces.push((named, Some(vec![Token::new(token.id, name, (0, len))])));
            done = end;
        }
        if done < text.len() {
            pieces.push((slice(done..text.len())?, None));
        }
        Ok(pieces)
    }
}

fn touches_word(text: &str, range: Range<usize>, word: &Regex) -> bool {
    let is_word = |c: char| word.is_match(c.encode_utf8(&mut [0; 4]));
    text[..range.start].chars().next_back().is_some_and(is_word)
        || text[range.end..].chars().next().is_some_and(is_word)
}

/// The bytes of the whole original text that a range of a piece's normalized text came from.
pub(super) fn in_original(piece: &NormalizedString, range: Range<usize>) -> Range<usize> {
    let (shift, _) = piece.offsets_original();
    let range = piece.convert_offsets(Referential::Normalized(range)).unwrap_or_default();
    shift + range.start..shift + range.end
}
