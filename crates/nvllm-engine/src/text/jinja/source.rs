//! What minijinja's grammar lacks is written into the template's text before it is parsed: `{%
//! generation %}` blocks (which mark an assistant's words for training), tuples without brackets,
//! Python's escapes in strings, and macros that take more arguments than they name.

use super::strings::unescape_literal;

/// The function that [`prepare`] wraps macros with.
pub(super) const OPEN_MACRO: &str = "__open_macro";

/// What a loop has; a name beyond these is a mistake that would print as nothing.
const LOOP: [&str; 13] = [
    "index",
    "index0",
    "revindex",
    "revindex0",
    "first",
    "last",
    "length",
    "depth",
    "depth0",
    "previtem",
    "nextitem",
    "cycle",
    "changed",
];

/// A macro whose end is not reached yet.
struct Macro {
    name: String,
    parameters: Vec<String>,
    /// Where in the output more parameters go, and where the body begins.
    at: usize,
}

struct Preparation {
    out: String,
    /// Open blocks with a scope of their own.
    scopes: Vec<&'static str>,
    macros: Vec<Macro>,
}

/// # Errors
/// What the template has that would render differently than in Jinja2.
pub(in crate::text) fn prepare(source: &str) -> Result<String, String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut this =
        Preparation { out: String::with_capacity(source.len()), scopes: Vec::new(), macros: Vec::new() };
    let mut rest = source.as_str();
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        this.out.push_str(before);
        rest = match tag.get(..2) {
            Some("{#") => this.copy_until(tag, "#}"),
            Some("{{") => this.expression(tag)?,
            Some("{%") => this.block(tag)?,
            _ => {
                this.out.push('{');
                &tag[1..]
            }
        };
    }
    this.out.push_str(rest);
    Ok(this.out)
}

/// A tag's inside with its signs of whitespace control, and what follows it.
struct Tag<'a> {
    open: &'a str,
    inside: &'a str,
    close: &'a str,
    rest: &'a str,
}

/// Splits a tag; `None` where it does not end.
fn tag<'a>(text: &'a str, end: &str) -> Option<Tag<'a>> {
    let mut depth = 0_usize;
    let mut at = 2;
    while at < text.len() {
        let rest = &text[at..];
        if depth == 0 && rest.starts_with(end) {
            let open = if text[2..at].starts_with(['-', '+']) { 3 } else { 2 };
            let close = if at > open && text[..at].ends_with(['-', '+']) { at - 1 } else { at };
            return Some(Tag {
                open: &text[..open],
                inside: &text[open..close],
                close: &text[close..at + 2],
                rest: &text[at + 2..],
            });
        }
        let c = rest.chars().next()?;
        match c {
            '\'' | '"' => {
                at += string_end(rest)?;
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += c.len_utf8();
    }
    None
}

/// The length of the string literal that begins `text`.
fn string_end(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut escaped = false;
    let end = text[1..].find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map(|end| end + 2)
}

/// Writes an expression with its strings as minijinja reads them; whether it has a comma outside of
/// brackets.
fn rewritten(text: &str) -> Result<(String, bool), String> {
    let (mut out, mut comma, mut depth, mut at) = (String::with_capacity(text.len()), false, 0_i32, 0);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if matches!(c, '\'' | '"') {
            let end = string_end(rest).unwrap_or(rest.len());
            let literal = &rest[..end];
            if literal.contains('\\') && end > 1 {
                let value = unescape_literal(&literal[1..end - 1])?;
                out.push_str(&format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")));
            } else {
                out.push_str(literal);
            }
            at += end;
            continue;
        }
        if c.is_alphabetic() || c == '_' {
            let word =
                |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
            let end = word(rest);
            if &rest[..end] == "loop"
                && !text[..at].trim_end().ends_with('.')
                && let Some(name) = rest[end..].strip_prefix('.')
                && let name = &name[..word(name)]
                && !LOOP.contains(&name)
            {
                return Err(format!("`loop` has no attribute `{name}`"));
            }
            out.push_str(&rest[..end]);
            at += end;
            continue;
        }
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => comma = true,
            _ => {}
        }
        out.push(c);
        at += c.len_utf8();
    }
    Ok((out, comma))
}

fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

impl Preparation {
    fn copy_until<'a>(&mut self, text: &'a str, end: &str) -> &'a str {
        let end = text.find(end).map_or(text.len(), |at| at + end.len());
        self.out.push_str(&text[..end]);
        &text[end..]
    }

    fn expression<'a>(&mut self, text: &'a str) -> Result<&'a str, String> {
        let Some(tag) = tag(text, "}}") else {
            self.out.push_str(text);
            return Ok("");
        };
        let (inside, tuple) = rewritten(tag.inside)?;
        self.out.push_str(tag.open);
        self.out.push_str(&if tuple { format!(" ({inside}) ") } else { inside });
        self.out.push_str(tag.close);
        Ok(tag.rest)
    }

    fn block<'a>(&mut self, text: &'a str) -> Result<&'a str, String> {
        let Some(tag) = tag(text, "%}") else {
            self.out.push_str(text);
            return Ok("");
        };
        let inside = tag.inside.trim();
        let word = &inside[..inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len())];
        let mut instead = None;
        match word {
            "raw" => return Ok(self.raw(text)),
            "for" => self.scopes.push("for"),
            "with" => self.scopes.push("with"),
            "generation" => {
                self.scopes.push("generation");
                instead = Some(" with ");
            }
            "endfor" | "endwith" => {
                self.scopes.pop();
            }
            "endgeneration" => {
                self.scopes.pop();
                instead = Some(" endwith ");
            }
            // minijinja would leave the scope open.
            "break" | "continue" if self.scopes.last().is_some_and(|scope| *scope != "for") => {
                let scope = self.scopes.last().copied().unwrap_or_default();
                return Err(format!("`{word}` out of a `{scope}` block is not supported"));
            }
            _ => {}
        }
        let inside = match instead {
            Some(instead) => instead.to_owned(),
            None => rewritten(tag.inside)?.0,
        };
        self.out.push_str(tag.open);
        if word == "macro" {
            self.begin_macro(&inside)?;
        }
        self.out.push_str(&inside);
        match (word, self.macros.pop_if(|_| word == "endmacro")) {
            ("endmacro", Some(begun)) => self.end_macro(&begun, tag.close),
            _ => self.out.push_str(tag.close),
        }
        Ok(tag.rest)
    }

    fn raw<'a>(&mut self, text: &'a str) -> &'a str {
        let mut from = 2;
        while let Some(at) = text[from..].find("{%") {
            let word = text[from + at + 2..].trim_start_matches(['-', '+']).trim_start();
            from += at + 2;
            if word.starts_with("endraw") {
                break;
            }
        }
        let end = text[from..].find("%}").map_or(text.len(), |at| from + at + 2);
        self.out.push_str(&text[..end]);
        &text[end..]
    }

    /// Notes a macro's name and parameters: `macro name(a, b=1)`.
    fn begin_macro(&mut self, inside: &str) -> Result<(), String> {
        let head = inside.trim_start().trim_start_matches("macro").trim();
        let (Some(open), Some(close)) = (head.find('('), inside.rfind(')')) else { return Ok(()) };
        let list = &head[open + 1..head.rfind(')').unwrap_or(head.len())];
        let mut parameters: Vec<String> = Vec::new();
        let (mut depth, mut from) = (0_i32, 0);
        for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    let (name, value) = list[from..at].split_once('=').unwrap_or((&list[from..at], ""));
                    let name = name.trim();
                    // minijinja looks the default up outside of the macro.
                    if let Some(earlier) = parameters.iter().find(|earlier| mentions(value, earlier)) {
                        return Err(format!(
                            "a default of a macro that uses `{earlier}`, another parameter, is not supported"
                        ));
                    }
                    parameters.extend(Some(name.to_owned()).filter(|name| !name.is_empty()));
                    from = at + 1;
                }
                _ => {}
            }
        }
        let name = head[..open].trim().to_owned();
        self.macros.push(Macro { name, parameters, at: self.out.len() + close });
        Ok(())
    }

    /// A macro that looks at `varargs` or `kwargs` takes all arguments, which minijinja's do not.
    fn end_macro(&mut self, begun: &Macro, close: &str) {
        let body = &self.out[begun.at..];
        let uses =
            |name: &str| mentions(body, name) && !begun.parameters.iter().any(|parameter| parameter == name);
        let (varargs, kwargs) = (uses("varargs"), uses("kwargs"));
        if !varargs && !kwargs {
            self.out.push_str(close);
            return;
        }
        let more = match (varargs, kwargs) {
            (true, true) => "varargs=(), kwargs={}",
            (true, false) => "varargs=()",
            _ => "kwargs={}",
        };
        let comma = if begun.parameters.is_empty() { "" } else { ", " };
        self.out.insert_str(begun.at, &format!("{comma}{more}"));
        let names = begun.parameters.iter().fold(String::new(), |names, name| names + "'" + name + "', ");
        let name = &begun.name;
        self.out.push_str(&format!(
            "%}}{{% set {name} = {OPEN_MACRO}({name}, [{names}], {varargs}, {kwargs}) {close}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_minijinja_lacks_is_rewritten() {
        for (source, text) in [
            ("a { b } {{ x }} {# {{ 1, 2 }} #}", "a { b } {{ x }} {# {{ 1, 2 }} #}"),
            ("{{- 1, 'a,b' -}}", "{{- ( 1, 'a,b' ) -}}"),
            ("{{ f(1, 2) }}{{ {'a': {}} }}", "{{ f(1, 2) }}{{ {'a': {}} }}"),
            (r"{{ '\d\/\'' }}", r#"{{ "\\d\\/'" }}"#),
            ("{%- generation +%}x{% endgeneration -%}", "{%- with +%}x{% endwith -%}"),
            ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}"),
            ("{% macro m(a) %}{{ a }}{% endmacro %}", "{% macro m(a) %}{{ a }}{% endmacro %}"),
            (
                "{% macro m(a) %}{{ kwargs }}{% endmacro -%}",
                "{% macro m(a, kwargs={}) %}{{ kwargs }}{% endmacro %}\
                 {% set m = __open_macro(m, ['a', ], false, true) -%}",
            ),
        ] {
            assert_eq!(prepare(source).as_deref(), Ok(text));
        }
        assert!(prepare("{% for i in l %}{{ loop.nope }}{% endfor %}").unwrap_err().contains("nope"));
        let message = prepare("{% with %}{% break %}{% endwith %}").unwrap_err();
        assert_eq!(message, "`break` out of a `with` block is not supported");
    }
}
