//! `str(value)` and `repr(value)`, which minijinja has its own way of for floats, strings and
//! undefined values.

use minijinja::value::ValueKind;
use minijinja::{State, Value};

use super::number::float;
use super::strings::is_printable;
use super::values::{Result, as_number, charge, error, is_float, is_namespace};

/// Deeper nesting than any JSON parser lets through; it guards the stack.
const MAX_DEPTH: usize = 200;

/// `str(value)`
pub(super) fn to_text(state: &State<'_, '_>, value: &Value) -> Result<String> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None if value.is_undefined() => Ok(String::new()),
        None => to_repr(state, value),
    }
}

/// `repr(value)`
pub(super) fn to_repr(state: &State<'_, '_>, value: &Value) -> Result<String> {
    let mut out = String::new();
    repr(value, &mut out, 0)?;
    charge(state, out.len())?;
    Ok(out)
}

fn repr(value: &Value, out: &mut String, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(error("the value is nested too deeply to be printed"));
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number if is_float(value) => out.push_str(&float(as_number(value).unwrap_or(f64::NAN))),
        ValueKind::String if value.is_safe() => {
            out.push_str("Markup(");
            quote(value.as_str().unwrap_or_default(), out);
            out.push(')');
        }
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = match (value.is_tuple(), value.len()) {
                (true, Some(1)) => ("(", ",)"),
                (true, _) => ("(", ")"),
                _ => ("[", "]"),
            };
            out.push_str(open);
            for (at, item) in value.try_iter()?.enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                repr(&item, out, depth + 1)?;
            }
            out.push_str(close);
        }
        ValueKind::Map => {
            let namespace = is_namespace(value);
            out.push_str(if namespace { "<Namespace {" } else { "{" });
            for (at, key) in value.try_iter()?.enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push_str(if namespace { "}>" } else { "}" });
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A string in quotes: single ones, unless it holds a single and no double quote.
fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => match c as u32 {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
}
