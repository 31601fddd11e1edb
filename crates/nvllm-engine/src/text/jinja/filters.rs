//! The filters that minijinja lacks, or has differently than Jinja2.

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, State, Value};

use super::repr::to_text;
use super::strings::{is_alphanumeric, is_space, lines};
use super::values::{Result, bind, charge, defined, error, flag, is_namespace, like, size};
use super::{html, methods, numbers, tojson, url, wrap};

type Filter = fn(&State<'_, '_>, &Value, &[Value]) -> Result<Value>;

const FILTERS: [(&str, Filter); 29] = [
    ("abs", numbers::abs),
    ("attr", attr),
    ("capitalize", |state, value, args| by_method(state, value, "capitalize", args)),
    ("center", center),
    ("d", default),
    ("default", default),
    ("filesizeformat", numbers::filesizeformat),
    ("float", numbers::float),
    ("forceescape", html::forceescape),
    ("indent", indent),
    ("int", numbers::int),
    ("join", join),
    ("list", list),
    ("lower", |state, value, args| by_method(state, value, "lower", args)),
    ("replace", replace),
    ("round", numbers::round),
    ("string", string),
    ("striptags", html::striptags),
    ("title", title),
    ("trim", trim),
    ("truncate", wrap::truncate),
    ("upper", |state, value, args| by_method(state, value, "upper", args)),
    ("urlencode", url::urlencode),
    ("urlize", url::urlize),
    ("wordcount", wordcount),
    ("wordwrap", wrap::wordwrap),
    ("xmlattr", html::xmlattr),
    ("e", html::escape_filter),
    ("escape", html::escape_filter),
];

/// Filters of minijinja that Jinja2 has not, or that print something else entirely (`pprint`).
const FOREIGN: [&str; 6] = ["bool", "chain", "lines", "pprint", "split", "zip"];

pub(super) fn add(env: &mut Environment<'static>) {
    for (name, filter) in FILTERS {
        env.add_filter(name, move |state: &State<'_, '_>, value: &Value, args: Rest<ValueOrKwargs>| {
            filter(state, value, &args.into_values())
        });
    }
    for name in FOREIGN {
        env.remove_filter(name);
    }
    env.add_filter("tojson", tojson::tojson);
}

/// A filter that is the string method of the same name.
fn by_method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    methods::string(state, &string(state, value, &[])?, name, args)
}

fn string(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    bind::<0>("string", args, [], 0)?;
    if value.as_str().is_some() { Ok(value.clone()) } else { to_text(state, value).map(Value::from) }
}

fn default(_: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [instead, boolean] = bind("default", args, ["default_value", "boolean"], 0)?;
    let falsy = flag(boolean) && !value.is_true();
    Ok(if falsy || value.is_undefined() { instead.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

/// What the type has under a name; keys of a dictionary are not looked at.
fn attr(_: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [name] = bind("attr", args, ["name"], 1)?;
    let name = name.unwrap_or_default();
    let name = super::values::text(&name)?;
    if value.kind() != ValueKind::Map || is_namespace(value) {
        return defined(value)?.get_attr(name);
    }
    if ["items", "keys", "values", "get", "copy"].contains(&name) {
        return Err(error("attr: methods as values are not supported"));
    }
    Ok(Value::UNDEFINED)
}

fn center(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [width] = bind("center", args, ["width"], 0)?;
    by_method(state, value, "center", &[width.unwrap_or(Value::from(80))])
}

fn trim(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [chars] = bind("trim", args, ["chars"], 0)?;
    by_method(state, value, "strip", chars.as_slice())
}

fn iterable(value: &Value) -> Result<&Value> {
    match value.kind() {
        ValueKind::None => Err(error("None is not iterable")),
        _ => Ok(value),
    }
}

fn list(_: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    bind::<0>("list", args, [], 0)?;
    Ok(iterable(value)?.try_iter()?.collect::<Vec<_>>().into())
}

fn join(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [separator, attribute] = bind("join", args, ["d", "attribute"], 0)?;
    let separator = separator.map_or(Ok(String::new()), |separator| to_text(state, &separator))?;
    let mut out = String::new();
    for (at, item) in iterable(value)?.try_iter()?.enumerate() {
        if at > 0 {
            out.push_str(&separator);
        }
        let item = match &attribute {
            Some(path) => {
                let path = to_text(state, path)?;
                path.split('.').try_fold(item, |item, name| match name.parse::<usize>() {
                    Ok(index) => item.get_item(&Value::from(index)),
                    Err(_) => item.get_attr(name),
                })?
            }
            None => item,
        };
        let text = to_text(state, &item)?;
        charge(state, text.len() + separator.len() + 64)?;
        out.push_str(&text);
    }
    Ok(Value::from(out))
}

/// Upper case at the start of the text and after blanks, hyphens and opening brackets.
fn title(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    bind::<0>("title", args, [], 0)?;
    let text = to_text(state, value)?;
    let separates = |c: char| is_space(c) || "-({[<".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| separates(c) != separates(first)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        out.extend(first.to_uppercase());
        out.push_str(&piece[first.len_utf8()..].to_lowercase());
        rest = after;
    }
    Ok(Value::from(out))
}

fn wordcount(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    bind::<0>("wordcount", args, [], 0)?;
    let text = to_text(state, value)?;
    let words = text.split(|c: char| c != '_' && !is_alphanumeric(c)).filter(|word| !word.is_empty());
    Ok(Value::from(words.count()))
}

fn replace(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [old, new, count] = bind("replace", args, ["old", "new", "count"], 2)?;
    let text = |value: Option<Value>| to_text(state, &value.unwrap_or_default()).map(Value::from);
    let count = count.filter(|count| !count.is_none()).unwrap_or(Value::from(-1));
    let source = Value::from(to_text(state, value)?);
    methods::string(state, &source, "replace", &[text(old)?, text(new)?, count])
}

/// All lines but the first moved to the right; blank ones only with `blank`.
fn indent(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [width, first, blank] = bind("indent", args, ["width", "first", "blank"], 0)?;
    let source = super::values::text(defined(value)?)?;
    let indention = match width {
        Some(width) if width.as_str().is_some() => to_text(state, &width)?,
        width => {
            let width = width.as_ref().map_or(Ok(4), size)?;
            charge(state, width)?;
            " ".repeat(width)
        }
    };
    let text = format!("{source}\n");
    let lines: Vec<&str> = lines(&text).into_iter().map(|(line, _)| line).collect();
    charge(state, text.len().saturating_add(indention.len().saturating_mul(lines.len())))?;
    let blank = flag(blank);
    let mut out = if flag(first) { indention.clone() } else { String::new() };
    for (at, line) in lines.into_iter().enumerate() {
        if at > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indention);
            }
        }
        out.push_str(line);
    }
    Ok(like(value, out))
}
