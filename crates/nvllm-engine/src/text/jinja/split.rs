//! Splitting and stripping.

use super::strings::{is_space, lines};

/// `text.split(separator, limit)`; a limit below zero is none.
pub(super) fn split<'a>(text: &'a str, separator: Option<&str>, limit: i128) -> Vec<&'a str> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let Some(separator) = separator else {
        let mut parts = Vec::new();
        let mut rest = text.trim_start_matches(is_space);
        while !rest.is_empty() {
            if parts.len() == limit {
                parts.push(rest.trim_end_matches(is_space));
                break;
            }
            let end = rest.find(is_space).unwrap_or(rest.len());
            parts.push(&rest[..end]);
            rest = rest[end..].trim_start_matches(is_space);
        }
        // With the limit used up, Python keeps the blanks at the end.
        if parts.len() == limit.saturating_add(1)
            && let Some(last) = parts.last_mut()
        {
            let start = last.as_ptr() as usize - text.as_ptr() as usize;
            *last = &text[start..];
        }
        return parts;
    };
    text.splitn(limit.saturating_add(1), separator).collect()
}

/// `text.rsplit(separator, limit)`
pub(super) fn split_from_right<'a>(text: &'a str, separator: Option<&str>, limit: i128) -> Vec<&'a str> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    if let Some(separator) = separator {
        parts.extend(text.rsplitn(limit.saturating_add(1), separator));
    } else {
        let mut rest = text.trim_end_matches(is_space);
        while !rest.is_empty() {
            if parts.len() == limit {
                parts.push(rest);
                break;
            }
            let start =
                rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
            parts.push(&rest[start..]);
            rest = rest[..start].trim_end_matches(is_space);
        }
    }
    parts.reverse();
    parts
}

/// What comes before the last separator, or all.
pub(super) fn split_once_from_right<'a>(text: &'a str, separator: &str) -> &'a str {
    text.rsplit_once(separator).map_or(text, |(before, _)| before)
}

/// `text.splitlines(keep)`
pub(super) fn split_lines(text: &str, keep: bool) -> Vec<String> {
    lines(text)
        .into_iter()
        .map(|(line, end)| if keep { format!("{line}{end}") } else { line.to_owned() })
        .collect()
}

/// `text.strip(chars)` on one or both sides.
pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(strips) } else { text };
    if right { text.trim_end_matches(strips) } else { text }
}
