//! Filters that wrap, cut or pad a text to a length.

use std::sync::LazyLock;

use fancy_regex::Regex;

use minijinja::{State, Value};

use super::repr::to_text;
use super::split::split_once_from_right;
use super::strings::lines;
use super::values::{
    Result, bind, charge, defined, error, flag, given, int as int_argument, like, size_or, text,
};

pub(super) fn truncate(_: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [limit, kill_words, end, leeway] =
        bind("truncate", args, ["length", "killwords", "end", "leeway"], 0)?;
    let limit = size_or(limit, 255)?;
    let end = end.unwrap_or_else(|| Value::from("..."));
    let end = text(&end)?;
    let leeway = given(leeway).as_ref().map_or(Ok(5), int_argument)?;
    let end_len = end.chars().count();
    if limit < end_len {
        return Err(error(format!("expected length >= {end_len}, got {limit}")));
    }
    let Ok(leeway) = usize::try_from(leeway) else {
        return Err(error(format!("expected leeway >= 0, got {leeway}")));
    };
    let len = value.len().ok_or_else(|| error(format!("object of type '{}' has no len()", value.kind())))?;
    if len <= limit.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let cut: String = text(value)?.chars().take(limit - end_len).collect();
    let kept = if flag(kill_words) { &cut } else { split_once_from_right(&cut, " ") };
    Ok(like(value, format!("{kept}{end}")))
}

pub(super) fn wordwrap(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [width, break_words, wrap, break_hyphens] =
        bind("wordwrap", args, ["width", "break_long_words", "wrapstring", "break_on_hyphens"], 0)?;
    let source = text(defined(value)?)?;
    let width = size_or(width, 79)?;
    if width == 0 {
        return Err(error("invalid width 0 (must be > 0)"));
    }
    let breaks_words = break_words.is_none() || flag(break_words);
    let at_hyphens = break_hyphens.is_none() || flag(break_hyphens);
    let wrap = given(wrap).map_or(Ok("\n".to_owned()), |wrap| to_text(state, &wrap))?;
    charge(state, source.len().saturating_mul(wrap.len() + 1))?;
    let mut out = Vec::new();
    for (line, _) in lines(source) {
        let chunks = if at_hyphens { hyphen_chunks(line)? } else { blank_chunks(line) };
        out.push(wrap_chunks(chunks, width, breaks_words, at_hyphens).join(&wrap));
    }
    Ok(Value::from(out.join(&wrap)))
}

fn is_blank(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ')
}

/// Words and the blanks between them.
fn blank_chunks(line: &str) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    for c in line.chars() {
        match chunks.last_mut() {
            Some(last) if last.starts_with(is_blank) == is_blank(c) => last.push(c),
            _ => chunks.push(c.to_string()),
        }
    }
    chunks
}

/// As [`blank_chunks`], and words with hyphens or dashes in parts.
fn hyphen_chunks(line: &str) -> Result<Vec<String>> {
    // The rule of CPython's `textwrap`, with its classes of characters.
    const RULE: &str = concat!(
        r#"[\t\n\x0b\x0c\r ]+|(?<=[\w!"'&.,?])-{2,}(?=\w)"#,
        r"|[^\t\n\x0b\x0c\r ]+?(?:-(?:(?<=[^\d\W]{2}-)|(?<=[^\d\W]-[\w!",
        r#""'&.,?]-))(?=[^\d\W]-?[^\d\W])|(?=[\t\n\x0b\x0c\r ]|\z)|(?<=[\w!"'&.,?])(?=-{2,}\w))"#,
    );
    static SEPARATORS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(RULE).ok());
    let failed = || error("wordwrap: the text could not be split into words");
    let rule = SEPARATORS.as_ref().ok_or_else(failed)?;
    let mut chunks = Vec::new();
    let mut from = 0;
    for found in rule.find_iter(line) {
        let found = found.map_err(|_| failed())?;
        chunks.extend([&line[from..found.start()], found.as_str()].map(str::to_owned));
        from = found.end();
    }
    chunks.push(line[from..].to_owned());
    chunks.retain(|chunk| !chunk.is_empty());
    Ok(chunks)
}

fn wrap_chunks(chunks: Vec<String>, width: usize, breaks_words: bool, at_hyphens: bool) -> Vec<String> {
    let len = |chunk: &str| chunk.chars().count();
    let blank = |chunk: &str| chunk.chars().all(super::strings::is_space);
    let mut rest: Vec<String> = chunks.into_iter().rev().collect();
    let mut lines: Vec<String> = Vec::new();
    while let Some(first) = rest.last() {
        if blank(first) && !lines.is_empty() {
            rest.pop();
        }
        let mut line: Vec<String> = Vec::new();
        let mut used = 0;
        while let Some(next) = rest.pop_if(|next| used + len(next) <= width) {
            used += len(&next);
            line.push(next);
        }
        if let Some(mut long) = rest.pop_if(|next| len(next) > width) {
            if breaks_words {
                let mut end = width.saturating_sub(used).max(usize::from(width == 0));
                if at_hyphens && len(&long) > end {
                    end = hyphen_before(&long, end).unwrap_or(end);
                }
                let at = long.char_indices().nth(end).map_or(long.len(), |(at, _)| at);
                let tail = long.split_off(at);
                line.push(long);
                rest.push(tail);
            } else if line.is_empty() {
                line.push(long);
            } else {
                rest.push(long);
            }
        }
        if line.last().is_some_and(|last| blank(last)) {
            line.pop();
        }
        if !line.is_empty() {
            lines.push(line.concat());
        }
    }
    lines
}

/// A place after a hyphen within the first `end` characters, if something else comes before it.
fn hyphen_before(word: &str, end: usize) -> Option<usize> {
    let head: Vec<char> = word.chars().take(end).collect();
    let hyphen = head.iter().rposition(|c| *c == '-').filter(|at| *at > 0)?;
    head[..hyphen].iter().any(|c| *c != '-').then_some(hyphen + 1)
}
