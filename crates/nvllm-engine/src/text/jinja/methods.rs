//! Methods of strings.

use std::fmt::Write as _;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::split::{split, split_from_right, split_lines, strip};
use super::strings::{
    capitalize, case_fold, is_alphanumeric, is_cased, is_decimal, is_digit, is_identifier_part,
    is_identifier_start, is_letter, is_lower_letter, is_numeric, is_printable, is_space, is_title_case,
    is_upper_letter, swap_case, title,
};
use super::values::{Result, bind, charge, error, given, int, like, size, text};
use super::{braces, containers, html};

/// The callback for methods that a value does not have of its own.
pub(super) fn call(state: &mut State<'_, '_>, receiver: &Value, name: &str, args: &[Value]) -> Result<Value> {
    match receiver.kind() {
        ValueKind::String => string(state, receiver, name, args),
        ValueKind::Map => containers::map(receiver, name, args),
        ValueKind::Seq | ValueKind::Iterable => containers::sequence(receiver, name, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn unknown() -> Error {
    Error::from(ErrorKind::UnknownMethod)
}

pub(super) fn string(state: &State<'_, '_>, receiver: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let this = text(receiver)?;
    charge(state, this.len())?;
    match name {
        "format" => braces::format(state, receiver, args),
        "format_map" => {
            let [map] = bind(name, args, [""], 1)?;
            braces::format_map(state, receiver, &map.unwrap_or_default())
        }
        "join" => join(state, receiver, args),
        "replace" => replace(state, receiver, args),
        "startswith" | "endswith" => affix(this, name, args).map(Value::from),
        "find" | "rfind" | "index" | "rindex" | "count" => search(this, name, args),
        "split" | "rsplit" => {
            let [separator, limit] = bind(name, args, ["sep", "maxsplit"], 0)?;
            let separator = given(separator);
            let separator = separator.as_ref().map(text).transpose()?;
            if separator == Some("") {
                return Err(error("empty separator"));
            }
            let limit = limit.as_ref().map_or(Ok(-1), int)?;
            let parts = if name == "split" {
                split(this, separator, limit)
            } else {
                split_from_right(this, separator, limit)
            };
            list(state, receiver, parts.into_iter().map(str::to_owned).collect())
        }
        "splitlines" => {
            let [keep] = bind(name, args, ["keepends"], 0)?;
            list(state, receiver, split_lines(this, keep.is_some_and(|keep| keep.is_true())))
        }
        "partition" | "rpartition" => {
            let [separator] = bind(name, args, [""], 1)?;
            let separator = separator.unwrap_or(Value::from(()));
            let separator = text(&separator)?;
            if separator.is_empty() {
                return Err(error("empty separator"));
            }
            let found =
                if name == "partition" { this.split_once(separator) } else { this.rsplit_once(separator) };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if name == "partition" => [this, "", ""],
                None => ["", "", this],
            };
            Ok(Value::from(Tuple::new(parts.into_iter().map(|part| like(receiver, part)).collect())))
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = bind(name, args, [""], 0)?;
            let chars = given(chars);
            let chars = chars.as_ref().map(text).transpose()?;
            Ok(like(receiver, strip(this, chars, name != "rstrip", name != "lstrip").to_owned()))
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = bind(name, args, [""], 1)?;
            let affix = affix.unwrap_or(Value::from(()));
            let affix = text(&affix)?;
            let rest =
                if name == "removeprefix" { this.strip_prefix(affix) } else { this.strip_suffix(affix) };
            Ok(like(receiver, rest.unwrap_or(this).to_owned()))
        }
        "center" | "ljust" | "rjust" | "zfill" | "expandtabs" => pad(state, receiver, name, args),
        "encode" => Err(error("the method `encode` of strings is not supported: it gives bytes")),
        "escape" => {
            let [value] = bind(name, args, [""], 1)?;
            html::escape_value(state, &value.unwrap_or(Value::from(())))
        }
        _ if name.starts_with("is") => {
            bind::<0>(name, args, [], 0)?;
            classify(this, name).map(Value::from)
        }
        _ => {
            bind::<0>(name, args, [], 0)?;
            convert(receiver, name)
        }
    }
}

fn list(state: &State<'_, '_>, receiver: &Value, parts: Vec<String>) -> Result<Value> {
    state.consume_fuel(parts.len() as u64)?;
    Ok(parts.into_iter().map(|part| like(receiver, part)).collect::<Vec<_>>().into())
}

fn convert(receiver: &Value, name: &str) -> Result<Value> {
    let this = text(receiver)?;
    Ok(match name {
        "upper" => like(receiver, this.to_uppercase()),
        "lower" => like(receiver, this.to_lowercase()),
        "capitalize" => like(receiver, capitalize(this)),
        "casefold" => like(receiver, case_fold(this)),
        "swapcase" => like(receiver, swap_case(this)),
        "title" => like(receiver, title(this)),
        "striptags" => Value::from(html::strip_tags(this)),
        "unescape" => Value::from(html::unescape(this)),
        _ => return Err(unknown()),
    })
}

fn classify(this: &str, name: &str) -> Result<bool> {
    let all = |class: fn(char) -> bool| !this.is_empty() && this.chars().all(class);
    let cased = |wanted: fn(char) -> bool| {
        let mut cased = this.chars().filter(|c| is_cased(*c)).peekable();
        cased.peek().is_some() && cased.all(wanted)
    };
    Ok(match name {
        "isalnum" => all(is_alphanumeric),
        "isalpha" => all(is_letter),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(is_numeric),
        "isspace" => all(is_space),
        "isascii" => this.is_ascii(),
        "isprintable" => this.chars().all(is_printable),
        "islower" => cased(is_lower_letter),
        "isupper" => cased(is_upper_letter),
        "isidentifier" => {
            this.chars().next().is_some_and(is_identifier_start)
                && this.chars().skip(1).all(is_identifier_part)
        }
        "istitle" => {
            let (mut any, mut inside) = (false, false);
            for c in this.chars() {
                let starts = is_upper_letter(c) || is_title_case(c);
                if (starts && inside) || (is_lower_letter(c) && !inside) {
                    return Ok(false);
                }
                any |= starts || is_lower_letter(c);
                inside = is_cased(c);
            }
            any
        }
        _ => return Err(unknown()),
    })
}

/// `separator.join(strings)`
fn join(state: &State<'_, '_>, receiver: &Value, args: &[Value]) -> Result<Value> {
    let [items] = bind("join", args, [""], 1)?;
    let items = given(items).ok_or_else(|| error("can only join an iterable"))?;
    let separator = text(receiver)?;
    let mut out = String::new();
    for (at, item) in items.try_iter()?.enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        let found = item.kind();
        let part = item
            .as_str()
            .ok_or_else(|| error(format!("sequence item {at}: expected a string, found {found}")))?;
        charge(state, separator.len() + part.len() + 64)?;
        if receiver.is_safe() && !item.is_safe() {
            out.push_str(&html::escape(part));
        } else {
            out.push_str(part);
        }
    }
    Ok(like(receiver, out))
}

/// `text.replace(old, new, count)`; the filter of that name calls it too.
pub(super) fn replaced(
    state: &State<'_, '_>,
    this: &str,
    old: &str,
    new: &str,
    count: i128,
) -> Result<String> {
    let found = if old.is_empty() { this.chars().count() + 1 } else { this.matches(old).count() };
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(found);
    charge(state, this.len().saturating_add(new.len().saturating_mul(count)))?;
    Ok(this.replacen(old, new, count))
}

fn replace(state: &State<'_, '_>, receiver: &Value, args: &[Value]) -> Result<Value> {
    let [old, new, count] = bind("replace", args, ["", "", "count"], 2)?;
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let count = count.as_ref().map_or(Ok(-1), int)?;
    let escaped = (receiver.is_safe() && !new.is_safe()).then(|| text(&new).map(html::escape)).transpose()?;
    let new = match &escaped {
        Some(escaped) => escaped,
        None => text(&new)?,
    };
    Ok(like(receiver, replaced(state, text(receiver)?, text(&old)?, new, count)?))
}

/// The part of a string that `start` and `stop` leave, with the number of characters before it.
fn part(this: &str, start: Option<Value>, stop: Option<Value>) -> Result<Option<(&str, usize)>> {
    let (start, stop) = (given(start), given(stop));
    if start.is_none() && stop.is_none() {
        return Ok(Some((this, 0)));
    }
    let len = this.chars().count() as i128;
    let place = |value: Option<Value>, default: i128| -> Result<i128> {
        let at = value.map_or(Ok(default), |value| int(&value))?;
        Ok(if at < 0 { (at + len).max(0) } else { at })
    };
    let (start, stop) = (place(start, 0)?, place(stop, len)?.min(len));
    if start > stop {
        return Ok(None);
    }
    let byte = |at: i128| this.char_indices().nth(at as usize).map_or(this.len(), |(byte, _)| byte);
    Ok(Some((&this[byte(start)..byte(stop)], start as usize)))
}

fn affix(this: &str, name: &str, args: &[Value]) -> Result<bool> {
    let [affixes, start, stop] = bind(name, args, [""; 3], 1)?;
    let Some((this, _)) = part(this, start, stop)? else { return Ok(false) };
    let test = |affix: &Value| -> Result<bool> {
        let affix = text(affix)?;
        Ok(if name == "startswith" { this.starts_with(affix) } else { this.ends_with(affix) })
    };
    match affixes.unwrap_or_default() {
        affixes if affixes.is_tuple() => {
            for affix in affixes.try_iter()? {
                if test(&affix)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        affix => test(&affix),
    }
}

fn search(this: &str, name: &str, args: &[Value]) -> Result<Value> {
    let [wanted, start, stop] = bind(name, args, [""; 3], 1)?;
    let wanted = wanted.unwrap_or(Value::from(()));
    let wanted = text(&wanted)?;
    let part = part(this, start, stop)?;
    if name == "count" {
        let count = part.map_or(0, |(this, _)| match wanted {
            "" => this.chars().count() + 1,
            _ => this.matches(wanted).count(),
        });
        return Ok(Value::from(count as i128));
    }
    let found = part.and_then(|(this, before)| {
        let at = if name.starts_with('r') { this.rfind(wanted) } else { this.find(wanted) }?;
        Some(before + this[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at as i128)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(error("substring not found")),
    }
}

fn pad(state: &State<'_, '_>, receiver: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let this = text(receiver)?;
    if name == "expandtabs" {
        let [width] = bind(name, args, ["tabsize"], 0)?;
        let width = width.as_ref().map_or(Ok(8), size)?;
        return expand_tabs(state, this, width).map(|text| like(receiver, text));
    }
    let [width, fill] = bind(name, args, [""; 2], 1)?;
    let width = size(&width.unwrap_or(Value::from(())))?;
    let fill = fill.unwrap_or_else(|| Value::from(" "));
    let mut chars = text(&fill)?.chars();
    let (Some(fill), None) = (chars.next(), chars.next()) else {
        return Err(error("the fill character must be exactly one character long"));
    };
    let missing = width.saturating_sub(this.chars().count());
    if missing == 0 {
        return Ok(like(receiver, this.to_owned()));
    }
    charge(state, missing.saturating_mul(fill.len_utf8()))?;
    let fill = if receiver.is_safe() { html::escape(&fill.to_string()) } else { fill.to_string() };
    let run = |count: usize| fill.repeat(count);
    Ok(like(
        receiver,
        match name {
            "ljust" => format!("{this}{}", run(missing)),
            "rjust" => format!("{}{this}", run(missing)),
            "center" => {
                let left = missing / 2 + (missing & width & 1);
                format!("{}{this}{}", run(left), run(missing - left))
            }
            _ => {
                let sign = if this.starts_with(['+', '-']) { &this[..1] } else { Default::default() };
                format!("{sign}{}{}", "0".repeat(missing), &this[sign.len()..])
            }
        },
    ))
}

fn expand_tabs(state: &State<'_, '_>, this: &str, width: usize) -> Result<String> {
    charge(state, this.matches('\t').count().saturating_mul(width))?;
    let mut out = String::new();
    let mut column = 0;
    for c in this.chars() {
        match c {
            '\t' if width > 0 => {
                let blanks = width - column % width;
                let _ = write!(out, "{:blanks$}", "");
                column += blanks;
            }
            '\t' => {}
            _ => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}
