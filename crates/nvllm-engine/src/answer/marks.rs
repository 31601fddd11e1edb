//! Marks in a text of which the end may not have come.

use super::part::Parts;

/// Tells as content what `held` surely has before `mark` and the ends of line before that. The
/// mark with these, once it is whole: `held` is then what comes behind it.
pub(super) fn content_before(held: &mut String, mark: &str, parts: &mut Parts) -> Option<String> {
    let Some(at) = held.find(mark) else {
        let behind = held.split_off(certain(held, &[mark]));
        parts.content(&std::mem::replace(held, behind));
        return None;
    };
    let behind = held.split_off(at + mark.len());
    let before = held.split_off(without_newlines(&held[..at]));
    parts.content(&std::mem::replace(held, behind));
    Some(before)
}

/// How many bytes at the end of `text` may be the beginning of `mark`; 0 if the mark is whole.
pub(super) fn may_begin(text: &str, mark: &str) -> usize {
    let longest = text.len().min(mark.len().saturating_sub(1));
    let mut lens = (1..=longest).rev();
    lens.find(|len| mark.as_bytes().starts_with(&text.as_bytes()[text.len() - len..])).unwrap_or(0)
}

/// Where `text` surely holds no part of `mark`, nor of the ends of line before it: up to there it
/// can be told.
pub(super) fn certain(text: &str, marks: &[&str]) -> usize {
    let held = marks.iter().map(|mark| may_begin(text, mark)).max().unwrap_or(0);
    without_newlines(&text[..text.len() - held])
}

/// The length of `text` without the ends of line at its end.
pub(super) fn without_newlines(text: &str) -> usize {
    text.trim_end_matches('\n').len()
}

/// Whether `text` is `mark` or begins with it (`Some(true)`), may become it (`None`), or is
/// something else.
pub(super) fn begins_with(text: &str, mark: &str) -> Option<bool> {
    if text.starts_with(mark) {
        Some(true)
    } else if mark.starts_with(text) {
        None
    } else {
        Some(false)
    }
}
