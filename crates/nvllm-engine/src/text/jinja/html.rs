//! Escaping and its like.

use minijinja::value::ValueKind;
use minijinja::{State, Value};

use super::repr::to_text;
use super::strings::is_space;
use super::values::{Result, bind, charge, defined, error, flag};

pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

/// `escape(value)`: what is safe stays as it is.
pub(super) fn escape_value(state: &State<'_, '_>, value: &Value) -> Result<Value> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = to_text(state, value)?;
    charge(state, text.len().saturating_mul(5))?;
    Ok(Value::from_safe_string(escape(&text)))
}

pub(super) fn escape_filter(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    bind::<0>("escape", args, [], 0)?;
    escape_value(state, value)
}

pub(super) fn forceescape(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    bind::<0>("forceescape", args, [], 0)?;
    escape_value(state, &Value::from(to_text(state, value)?))
}

pub(super) fn striptags(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    bind::<0>("striptags", args, [], 0)?;
    Ok(Value::from(strip_tags(&to_text(state, value)?)))
}

/// Without tags and comments, with single blanks, and with entities resolved.
pub(super) fn strip_tags(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let tag = &rest[start..];
        let end = match tag.strip_prefix("<!--") {
            Some(comment) => comment.find("-->").map(|end| end + 7),
            None => tag.find('>').map(|end| end + 1),
        };
        let Some(end) = end else { break };
        kept.push_str(&rest[..start]);
        rest = &tag[end..];
    }
    kept.push_str(rest);
    let words: Vec<&str> = kept.split(is_space).filter(|word| !word.is_empty()).collect();
    unescape(&words.join(" "))
}

/// Resolves numeric entities and the common names; of HTML's 2,231 names the rest stay as they are.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let resolved =
            rest.find(';').filter(|end| *end <= 32).and_then(|end| Some((entity(&rest[1..end])?, end)));
        if let Some((c, end)) = resolved {
            out.push(c);
            rest = &rest[end + 1..];
        } else {
            out.push('&');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return Some(char::from_u32(code).filter(|c| *c != '\0').unwrap_or('\u{fffd}'));
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        "laquo" => '«',
        "raquo" => '»',
        "hellip" => '…',
        "mdash" => '—',
        "ndash" => '–',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "bull" => '•',
        "middot" => '·',
        "deg" => '°',
        "times" => '×',
        "euro" => '€',
        _ => return None,
    })
}

/// A dictionary as attributes of a tag.
pub(super) fn xmlattr(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [autospace] = bind("xmlattr", args, ["autospace"], 0)?;
    if defined(value)?.kind() != ValueKind::Map {
        return Err(error(format!("xmlattr needs a mapping, not {}", value.kind())));
    }
    let mut parts = Vec::new();
    for key in value.try_iter()? {
        let value = value.get_item(&key)?;
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let Some(name) = key.as_str() else {
            return Err(error("xmlattr: a name must be a string"));
        };
        if name.contains(|c: char| matches!(c, ' ' | '\t'..='\r' | '/' | '>' | '=')) {
            return Err(error(format!("invalid character in attribute name: '{name}'")));
        }
        let (key, value) = (escape_value(state, &key)?, escape_value(state, &value)?);
        parts.push(format!(
            "{}=\"{}\"",
            key.as_str().unwrap_or_default(),
            value.as_str().unwrap_or_default()
        ));
    }
    let space = autospace.is_none() || flag(autospace);
    Ok(Value::from(if space && !parts.is_empty() {
        format!(" {}", parts.join(" "))
    } else {
        parts.join(" ")
    }))
}
