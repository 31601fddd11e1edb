//! Marks that tell the names of special tokens that strangers wrote from those of the template.
//!
//! A template sees strings only, so what a stranger wrote is marked inside the strings: with
//! noncharacters, which Unicode keeps out of texts. A name with a mark inside is no special token.
//! The marks are taken out of the rendered text, and their places are kept.

use std::ops::Range;

use aho_corasick::AhoCorasick;
use tokenizers::{AddedVocabulary, NormalizedString, Normalizer, NormalizerWrapper};

use super::added_matcher::in_original;

/// The noncharacters that marks are chosen from.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// The names of a tokenizer's special tokens, as automata that find all of a text in one pass.
#[derive(Debug)]
pub(super) struct SpecialNames {
    /// Sorted.
    names: Vec<String>,
    longest: usize,
    plain: AhoCorasick,
    /// The tokens that are looked for in normalized text, where a text may name them in other
    /// letters; with their normalized names.
    normalized: Option<AhoCorasick>,
}

impl SpecialNames {
    /// Errors if the names are too many for an automaton.
    pub(super) fn new(vocabulary: &AddedVocabulary) -> Result<Self, String> {
        let special = || {
            let tokens = vocabulary.get_added_tokens_decoder().iter();
            tokens.filter(|(_, token)| token.special && !token.content.is_empty())
        };
        let mut names: Vec<String> = special().map(|(_, token)| token.content.clone()).collect();
        names.sort_unstable();
        let normalized: Vec<String> = special()
            .filter(|(_, token)| token.normalized)
            .filter_map(|(&id, _)| vocabulary.simple_id_to_token(id))
            .filter(|name| !name.is_empty())
            .collect();
        let build = |names: &[String]| AhoCorasick::new(names).map_err(|e| e.to_string());
        Ok(Self {
            longest: names.iter().map(String::len).max().unwrap_or_default(),
            plain: build(&names)?,
            normalized: if normalized.is_empty() { None } else { Some(build(&normalized)?) },
            names,
        })
    }

    /// Whether a text names a special token, or ends as if it began to.
    pub(super) fn touch(&self, text: &str, normalizer: Option<&NormalizerWrapper>) -> bool {
        self.plain.is_match(text)
            || self.ends_in_prefix(text)
            || !self.other_letters(text, normalizer).is_empty()
    }

    /// Whether a text names a special token that does not look like a field's name. Templates look
    /// fields up by their names, so those stay as they are.
    pub(super) fn touch_key(&self, key: &str) -> bool {
        let is_field = key.chars().all(|c| c.is_alphanumeric() || c == '_');
        !is_field && self.plain.is_match(key)
    }

    /// The text with marks, such that no special token's name is without one.
    pub(super) fn mark(&self, text: &str, normalizer: Option<&NormalizerWrapper>, marks: &Marks) -> String {
        // All names, overlapping ones included: which of them the tokenizer would take depends on
        // what the template writes before the text.
        let mut found: Vec<_> = self.plain.find_overlapping_iter(text).map(|found| found.range()).collect();
        found.extend(self.other_letters(text, normalizer));
        found.sort_unstable_by_key(|range| (range.end, range.start));
        found.dedup();
        let mut marked = String::with_capacity(text.len() + 3 * found.len() + 3);
        let (mut done, mut last) = (0, 0);
        for Range { start, end } in found {
            // Ordered by their ends, so the last mark is before this one's.
            if last > start || start == end {
                continue;
            }
            let second = start + text[start..end].chars().next().map_or(0, char::len_utf8);
            // A name of one character has no inside.
            let (place, mark) = if second < end { (second, marks.inside) } else { (start, marks.before) };
            marked.push_str(&text[done..place]);
            marked.push(mark);
            (done, last) = (place, place);
        }
        marked.push_str(&text[done..]);
        if self.ends_in_prefix(text) {
            marked.push(marks.inside);
        }
        marked
    }

    /// Whether a text's end is the beginning of a name: `<|im_`, which another text's `end|>` may
    /// follow. Names that begin with a letter do not count: every other word ends in their
    /// beginning, and templates compare words.
    fn ends_in_prefix(&self, text: &str) -> bool {
        let from = text.len().saturating_sub(self.longest);
        (from..text.len()).filter(|&at| text.is_char_boundary(at)).any(|at| {
            let tail = &text[at..];
            let first = self.names.partition_point(|name| name.as_str() <= tail);
            tail.starts_with(|c: char| !c.is_alphanumeric())
                && self.names.get(first).is_some_and(|name| name.starts_with(tail))
        })
    }

    /// Where a text becomes a special token's name by the normalizer.
    fn other_letters(&self, text: &str, normalizer: Option<&NormalizerWrapper>) -> Vec<Range<usize>> {
        let (Some(names), Some(normalizer)) = (&self.normalized, normalizer) else { return Vec::new() };
        let mut text = NormalizedString::from(text);
        if normalizer.normalize(&mut text).is_err() {
            return Vec::new();
        }
        names.find_overlapping_iter(text.get()).map(|found| in_original(&text, found.range())).collect()
    }
}

/// The characters that mark texts of one conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// Inside a name, or after what may become one.
    inside: char,
    /// Before a name of one character.
    before: char,
    /// At the end of the last message.
    pub(super) end: char,
}

impl Marks {
    /// Marks that none of the texts holds.
    pub(super) fn unused(texts: &[&str]) -> Self {
        let mut used = 0_u32;
        for c in texts.iter().flat_map(|text| text.chars()).filter(|c| NONCHARACTERS.contains(c)) {
            used |= 1 << (c as u32 - *NONCHARACTERS.start() as u32);
        }
        let free = NONCHARACTERS.enumerate().filter(|(at, _)| (used >> at) & 1 == 0).map(|(_, c)| c);
        // A conversation with nearly all of them loses some: it has nothing to say with them.
        let mut free = free.chain(NONCHARACTERS);
        let mut next = || free.next().unwrap_or(*NONCHARACTERS.start());
        Self { inside: next(), before: next(), end: next() }
    }

    /// The text without marks, and the places of those about names.
    pub(super) fn remove(&self, text: &str) -> (String, MarkedPlaces) {
        let mut plain = String::with_capacity(text.len());
        let mut places = MarkedPlaces::default();
        let mut rest = text;
        while let Some(at) = rest.find([self.inside, self.before, self.end]) {
            plain.push_str(&rest[..at]);
            let mark = rest[at..].chars().next().unwrap_or(self.end);
            if mark != self.end {
                places.all.push(plain.len());
            }
            if mark == self.before {
                places.before.push(plain.len());
            }
            rest = &rest[at + mark.len_utf8()..];
        }
        plain.push_str(rest);
        (plain, places)
    }
}

/// Where in a rendered text strangers named special tokens.
#[derive(Debug, Default)]
pub(super) struct MarkedPlaces {
    /// In ascending order.
    all: Vec<usize>,
    /// Those before a name of one character.
    before: Vec<usize>,
}

impl MarkedPlaces {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a name that stands there is text.
    pub(super) fn is_text(&self, name: &Range<usize>) -> bool {
        let next = self.all.partition_point(|&place| place <= name.start);
        self.all.get(next).is_some_and(|&place| place < name.end)
            || self.before.binary_search(&name.start).is_ok()
    }
}
