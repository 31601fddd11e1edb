//! `'{} is {x:>4}'.format(a, x=b)`, with attributes and items found as the sandbox finds them.

use minijinja::{State, Value};

use super::html::escape;
use super::repr::{to_repr, to_text};
use super::spec;
use super::values::{Result, charge, error, like, split, text};

struct Formatter<'a> {
    state: &'a State<'a, 'a>,
    safe: bool,
    positional: &'a [Value],
    named: Vec<(String, Value)>,
    map: Option<&'a Value>,
    /// Number of the next `{}`; `None` once a field has a number of its own.
    next: Option<usize>,
    numbered: bool,
}

pub(super) fn format(state: &State<'_, '_>, template: &Value, args: &[Value]) -> Result<Value> {
    run(state, template, args, None)
}

pub(super) fn format_map(state: &State<'_, '_>, template: &Value, map: &Value) -> Result<Value> {
    run(state, template, &[], Some(map))
}

fn run(state: &State<'_, '_>, template: &Value, args: &[Value], map: Option<&Value>) -> Result<Value> {
    let (positional, named) = split(args)?;
    let safe = template.is_safe();
    let mut formatter = Formatter { state, safe, positional, named, map, next: Some(0), numbered: false };
    let out = formatter.text(text(template)?, 0)?;
    Ok(like(template, out))
}

impl Formatter<'_> {
    fn text(&mut self, template: &str, depth: usize) -> Result<String> {
        if depth > 2 {
            return Err(error("max string recursion exceeded"));
        }
        charge(self.state, template.len())?;
        let mut out = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(error("single '}' encountered in format string"));
            }
            let end = field_end(rest)?;
            let field = self.field(&rest[..end], depth)?;
            charge(self.state, field.len())?;
            out.push_str(&field);
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// `name!conversion:spec`
    fn field(&mut self, field: &str, depth: usize) -> Result<String> {
        let mut brackets = false;
        let end = field.find(|c| {
            brackets = (brackets || c == '[') && c != ']';
            !brackets && matches!(c, '!' | ':')
        });
        let (name, tail) = field.split_at(end.unwrap_or(field.len()));
        let (conversion, spec) = match tail.strip_prefix('!') {
            Some(tail) => {
                let (conversion, spec) = tail.split_once(':').unwrap_or((tail, ""));
                (Some(conversion), spec)
            }
            None => (None, tail.strip_prefix(':').unwrap_or("")),
        };
        let value = self.lookup(name)?;
        let state = self.state;
        let value = match conversion {
            None => value,
            Some("s") => Value::from(to_text(state, &value)?),
            Some("r") => Value::from(to_repr(state, &value)?),
            Some("a") => Value::from(to_ascii(&to_repr(state, &value)?)),
            Some(other) => return Err(error(format!("unknown conversion specifier '{other}'"))),
        };
        let spec = self.text(spec, depth + 1)?;
        if self.safe {
            return match &value {
                other if other.is_safe() => {
                    if spec.is_empty() {
                        to_text(state, other)
                    } else {
                        Err(error("unsupported format specification for Markup"))
                    }
                }
                other => Ok(escape(&spec::format(self.state, other, &spec)?)),
            };
        }
        spec::format(self.state, &value, &spec)
    }

    /// `0`, `name`, or nothing, followed by `.attribute` and `[item]`.
    fn lookup(&mut self, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let mut value = self.first(first)?;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                if end == 0 {
                    return Err(error("empty attribute in format string"));
                }
                value = attribute(&value, &Value::from(&after[..end]))?;
                rest = &after[end..];
            } else if let Some((key, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                let key = match key.parse::<u64>() {
                    Ok(index) if key.bytes().all(|b| b.is_ascii_digit()) => Value::from(index),
                    _ => Value::from(key),
                };
                value = attribute(&value, &key)?;
                rest = after;
            } else {
                return Err(error("expected '.' or '[' in a format field"));
            }
        }
        Ok(value)
    }

    fn first(&mut self, name: &str) -> Result<Value> {
        let index = match name {
            "" => {
                let Some(next) = self.next.filter(|_| !self.numbered) else {
                    let message =
                        "cannot switch from manual field specification to automatic field numbering";
                    return Err(error(message));
                };
                self.next = Some(next + 1);
                Some(next)
            }
            _ if name.bytes().all(|b| b.is_ascii_digit()) => {
                if self.next != Some(0) && !self.numbered {
                    let message =
                        "cannot switch from automatic field numbering to manual field specification";
                    return Err(error(message));
                }
                self.numbered = true;
                name.parse().ok()
            }
            _ => None,
        };
        if let Some(index) = index {
            self.positional.get(index).cloned().ok_or_else(|| {
                error(format!("replacement index {index} out of range for positional args tuple"))
            })
        } else {
            let found = if let Some(map) = self.map {
                map.get_attr(name).ok().filter(|value| !value.is_undefined())
            } else {
                let named = self.named.iter().find(|(other, _)| **other == *name);
                named.map(|(_, value)| value.clone())
            };
            found.ok_or_else(|| error(format!("no value for '{name}'")))
        }
    }
}

fn attribute(value: &Value, key: &Value) -> Result<Value> {
    value.get_item(super::values::defined(value).map(|_| key)?)
}

/// Where the field that begins `text` ends.
fn field_end(text: &str) -> Result<usize> {
    let mut depth = 1;
    let end = text.find(|c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0
    });
    end.ok_or_else(|| error("expected '}' before end of string"))
}

/// `ascii(text)` of what is quoted already.
fn to_ascii(quoted: &str) -> String {
    let mut out = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        match c as u32 {
            0..=0x7f => out.push(c),
            code @ 0x80..=0xff => out.push_str(&format!("\\x{code:02x}")),
            code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    out
}
