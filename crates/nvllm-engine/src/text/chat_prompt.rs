//! A conversation to the tokens of a prompt, with strangers' words kept apart from the template's.

use serde_json::Value as Json;

use super::{ChatInput, ChatTemplate, EncodeOptions, SpecialText, Tokenizer};
use crate::{EngineError, Result};

/// Code points that no text may hold by Unicode's word, one of which marks what the template did
/// not write.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

impl ChatTemplate {
    /// The tokens of a conversation's prompt. If the name of a special token in a message is
    /// [`Literal`](SpecialText::Literal), it becomes the letters that it is written with, and only
    /// the template's own are special: who writes a message cannot end it.
    ///
    /// With `continues`, the prompt ends with the last message's text, so that the answer goes on
    /// with it.
    ///
    /// Errors as [`render`](Self::render) does; if the text cannot be encoded; or if the template
    /// changes the last message, so that its end is not found.
    pub fn encode(
        &self,
        input: &ChatInput<'_>,
        continues: bool,
        special_text: SpecialText,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>> {
        let last = input.messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
        let marked = match special_text {
            SpecialText::Literal => Marked::new(input.messages, tokenizer),
            SpecialText::Parse => None,
        };
        let Some(marked) = marked else {
            let mut text = self.render(input)?;
            if continues {
                cut_after(&mut text, last)?;
            }
            return tokenizer.encode(&text, EncodeOptions::default());
        };
        let last = marked.messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
        let mut text = self.render(&ChatInput { messages: &marked.messages, ..*input })?;
        if continues {
            cut_after(&mut text, last)?;
        }
        encode_marked(&text, marked.mark, tokenizer)
    }
}

/// Messages in which every name of a special token is broken by a mark.
struct Marked {
    messages: Vec<Json>,
    mark: char,
}

impl Marked {
    /// `None` if there is nothing to be marked.
    fn new(messages: &[Json], tokenizer: &Tokenizer) -> Option<Self> {
        let names: Vec<_> = special_names(tokenizer).collect();
        let mut texts = Vec::new();
        messages.iter().for_each(|message| collect(message, &mut texts));
        if !texts.iter().any(|text| names.iter().any(|name| text.contains(name))) {
            return None;
        }
        let mark = NONCHARACTERS.into_iter().find(|mark| !texts.iter().any(|text| text.contains(*mark)));
        // A conversation with all 32 of them has nothing to say that would be lost.
        let mark = mark.unwrap_or('\u{FDD0}');
        let mut messages = messages.to_vec();
        messages.iter_mut().for_each(|message| replace(message, &names, mark));
        Some(Self { messages, mark })
    }
}

fn special_names(tokenizer: &Tokenizer) -> impl Iterator<Item = &str> {
    let special = tokenizer.added_tokens().iter().filter(|token| token.special);
    special.map(|token| token.content.as_str()).filter(|name| !name.is_empty())
}

/// All strings of a message but its role.
fn collect<'a>(value: &'a Json, texts: &mut Vec<&'a str>) {
    match value {
        Json::String(text) => texts.push(text),
        Json::Array(items) => items.iter().for_each(|item| collect(item, texts)),
        Json::Object(fields) => fields.values().for_each(|field| collect(field, texts)),
        _ => {}
    }
}

/// Puts the mark after the first character of every name.
fn replace(value: &mut Json, names: &[&str], mark: char) {
    match value {
        Json::String(text) => {
            for name in names.iter().filter(|name| name.chars().count() > 1) {
                if text.contains(name) {
                    let first = name.chars().next().map_or(0, char::len_utf8);
                    *text = text.replace(name, &format!("{}{mark}{}", &name[..first], &name[first..]));
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| replace(item, names, mark)),
        Json::Object(fields) => fields.values_mut().for_each(|field| replace(field, names, mark)),
        _ => {}
    }
}

/// Encodes a rendered text: names without a mark are special, everything else is letters.
fn encode_marked(text: &str, mark: char, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let literal = EncodeOptions { special_text: SpecialText::Literal, ..EncodeOptions::default() };
    let mut ids = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let found = special_names(tokenizer)
            .filter_map(|name| rest.find(name).map(|at| (at, name)))
            // The longest of those that begin first.
            .min_by_key(|&(at, name)| (at, usize::MAX - name.len()));
        let (before, name) = found.map_or((rest, ""), |(at, name)| (&rest[..at], name));
        if !before.is_empty() {
            ids.extend(tokenizer.encode(&before.replace(mark, ""), literal)?);
        }
        ids.extend(tokenizer.token_id(name).filter(|_| !name.is_empty()));
        rest = &rest[before.len() + name.len()..];
    }
    Ok(ids)
}

/// Ends a rendered text with the last message's words. As in transformers, the blanks around them
/// are as the template left them.
fn cut_after(text: &mut String, last: &str) -> Result<()> {
    let at = text.rfind(last.trim()).filter(|_| !last.trim().is_empty());
    let Some(at) = at else {
        return Err(EngineError::ChatRejected {
            message: "the last message's text is not in the prompt, so an answer cannot go on with it".into(),
        });
    };
    let whole = last.trim_start();
    let kept = if text[at..].starts_with(whole) { whole } else { last.trim() };
    text.truncate(at + kept.len());
    Ok(())
}
