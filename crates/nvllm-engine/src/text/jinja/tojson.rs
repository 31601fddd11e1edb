//! `tojson`: Python's `json.dumps`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::number::float;
use super::values::{error, is_namespace, size};

/// A bound that no template comes near.
const MAX_INDENT: usize = 255;

/// Deeper nesting than any JSON parser lets through; it guards the stack.
const MAX_DEPTH: usize = 256;

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)` of
/// Hugging Face's `apply_chat_template`: plain `json.dumps`, not the HTML-escaping filter of Jinja.
#[allow(clippy::needless_pass_by_value)] // the signature that the template engine calls
pub(super) fn tojson(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut positional = positional.0.into_iter();
    let mut argument = |name: &str| -> Result<Option<Value>, Error> {
        let given = match positional.next() {
            Some(value) => Some(value),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ensure_ascii = argument("ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = argument("indent")?.map(|unit| indent_unit(&unit)).transpose()?;
    let separators = argument("separators")?.as_ref().map(separator_pair).transpose()?;
    let sort_keys = argument("sort_keys")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let (item, key) = separators.unwrap_or_else(|| {
        let item = if indent.is_some() { "," } else { ", " };
        (item.into(), ": ".into())
    });
    let mut writer = JsonWriter { out: String::new(), ensure_ascii, indent, item, key, sort_keys };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

/// `indent=n` means n spaces, `indent="\t"` that string.
fn indent_unit(value: &Value) -> Result<String, Error> {
    if let Some(unit) = value.as_str() {
        return Ok(unit.to_owned());
    }
    let width = size(value)?;
    let fits = width <= MAX_INDENT;
    fits.then(|| " ".repeat(width)).ok_or_else(|| error("tojson: the indentation is too wide"))
}

fn separator_pair(value: &Value) -> Result<(String, String), Error> {
    let parts: Vec<String> = value.try_iter()?.map(|part| part.to_string()).collect();
    <[String; 2]>::try_from(parts)
        .map(|[item, key]| (item, key))
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be a pair of strings"))
}

struct JsonWriter {
    out: String,
    ensure_ascii: bool,
    /// One level of indentation; `None` keeps everything on one line.
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl JsonWriter {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container('[', ']', &items, depth, |writer, item| writer.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if is_namespace(value) {
                    return Err(error("tojson: a namespace cannot be written as JSON"));
                }
                let texts = keys.iter().filter(|key| key.as_str().is_some()).count();
                if self.sort_keys && texts > 0 && texts < keys.len() {
                    return Err(error("tojson: keys of different types cannot be sorted"));
                }
                if self.sort_keys {
                    keys.sort_by_cached_key(ToString::to_string);
                }
                self.container('{', '}', &keys, depth, |writer, key| {
                    writer.map_key(key)?;
                    writer.out.push_str(&writer.key.clone());
                    writer.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            kind => {
                let detail = format!("tojson: a value that is {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, detail));
            }
        }
        Ok(())
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push_str(&self.item.clone());
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(unit) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(unit);
            }
        }
    }

    /// Python turns keys that are not strings into their JSON text.
    fn map_key(&mut self, key: &Value) -> Result<(), Error> {
        if let Some(text) = key.as_str() {
            self.string(text);
        } else {
            self.out.push('"');
            self.value(key, MAX_DEPTH)?;
            self.out.push('"');
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            let _ = write!(self.out, "{value}");
        } else {
            self.out.push_str(&json_float(f64::try_from(value.clone())?));
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                // Noncharacters stay: they are marks that are taken out of the prompt.
                ' '..='~' | '\u{FDD0}'..='\u{FDEF}' => self.out.push(c),
                c if (c as u32) < 0x20 || self.ensure_ascii => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A float as JSON; Python writes what is not finite in the manner of JavaScript.
fn json_float(x: f64) -> String {
    match (x.is_nan(), x > 0.0) {
        (true, _) => "NaN".to_owned(),
        _ if x.is_finite() => float(x),
        (_, true) => "Infinity".to_owned(),
        (_, false) => "-Infinity".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context, value::Serde};
    use serde_json::json;

    use super::*;

    fn dumps(arguments: &str, value: serde_json::Value) -> String {
        let mut env = Environment::new();
        env.add_filter("tojson", tojson);
        let x = Value::from(Serde(value));
        let rendered = env.render_str(&format!("{{{{ x|tojson({arguments}) }}}}"), context! { x });
        rendered.unwrap_or_else(|e| format!("error: {e}"))
    }

    /// The right-hand sides are what CPython 3.11's `json.dumps(.., ensure_ascii=False)` prints.
    #[test]
    fn dumps_as_python_does() {
        let value =
            json!({"b": [1, -2.5, true, null], "a": {"k": "<é> & \"q\" \\ \n\u{1}\u{7f}"}, "e": [], "m": {}});
        let flat = "{\"b\": [1, -2.5, true, null], \"a\": {\"k\": \"<é> & \\\"q\\\" \\\\ \\n\\u0001\u{7f}\"}, \"e\": [], \"m\": {}}";
        assert_eq!(dumps("", value.clone()), flat);
        assert_eq!(
            dumps("indent=2", json!({"b": [1, {"c": []}], "a": {}})),
            "{\n  \"b\": [\n    1,\n    {\n      \"c\": []\n    }\n  ],\n  \"a\": {}\n}"
        );
        assert_eq!(dumps("indent='\t'", json!([1])), "[\n\t1\n]");
        assert_eq!(dumps("indent=none", json!([1])), "[1]");
        assert_eq!(dumps("ensure_ascii=true", json!("é🙂\u{7f}")), r#""\u00e9\ud83d\ude42\u007f""#);
        assert_eq!(dumps("true", json!("é")), r#""\u00e9""#);
        assert_eq!(
            dumps("separators=(',', ':'), sort_keys=true", json!({"b": 1, "a": [2, 3]})),
            r#"{"a":[2,3],"b":1}"#
        );
        assert!(dumps("indents=2", json!(1)).starts_with("error: too many arguments"));
        assert!(dumps("separators=[',']", json!(1)).contains("must be a pair"));
    }

    #[test]
    fn floats_as_python_prints_them() {
        for (x, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.234e100, "-1.234e+100"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(json_float(x), text);
        }
        assert_eq!(
            dumps("", json!([1e16, 18_446_744_073_709_551_615_u64, -3])),
            "[1e+16, 18446744073709551615, -3]"
        );
    }
}
