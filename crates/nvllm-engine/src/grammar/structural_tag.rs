//! Free text with parts that have a form, as vLLM's `structural_tag` describes them.
//!
//! Two ways to write it are read. The older: `structures`, each with `begin`, `schema` and `end`,
//! and `triggers`, texts behind which one of the structures follows. The newer: a `format`, made of
//! formats.

use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value};

use super::lark::Lark;
use crate::text::Tokenizer;

/// Formats in formats.
const MAX_DEPTH: usize = 32;

pub(super) fn grammar(tag: &Value, tokenizer: &Tokenizer) -> Result<TopLevelGrammar, String> {
    let fields = tag.as_object().ok_or("must be an object")?;
    let mut lark = Lark::new(tokenizer);
    let body = if let Some(format) = fields.get("format") {
        form(format, &mut lark, MAX_DEPTH)?
    } else {
        let structures = list(fields, "structures")?.iter().map(|structure| {
            let schema = field(structure, "schema")?;
            Ok(Tag {
                begin: text(structure, "begin")?,
                end: text(structure, "end")?,
                content: Content::Schema(schema),
            })
        });
        let structures = structures.collect::<Result<Vec<_>, String>>()?;
        triggered(&structures, &texts(fields, "triggers")?, [false, false], &mut lark, MAX_DEPTH)?
    };
    Ok(lark.finish(&body))
}

/// A part with a form.
struct Tag<'a> {
    begin: &'a str,
    content: Content<'a>,
    end: &'a str,
}

enum Content<'a> {
    Schema(&'a Value),
    Format(&'a Value),
}

impl<'a> Tag<'a> {
    fn of(tag: &'a Value) -> Result<Self, String> {
        let content = Content::Format(field(tag, "content")?);
        Ok(Self { begin: text(tag, "begin")?, content, end: text(tag, "end")? })
    }

    /// What stands behind `begun`, the first part of what it begins with.
    fn behind(&self, begun: &str, lark: &mut Lark<'_>, depth: usize) -> Result<String, String> {
        let begin = &self.begin[begun.len()..];
        let begin = if begin.is_empty() { String::new() } else { lark.literal(begin) };
        let end = if self.end.is_empty() { String::new() } else { lark.literal(self.end) };
        let content = match self.content {
            Content::Schema(schema) => {
                lark.json(schema).map_err(|problem| format!("has a schema that {problem}"))?
            }
            Content::Format(format) if is_any_text(format) && !self.end.is_empty() => {
                let text = lark.text_until(self.end)?;
                return Ok(lark.rule(&format!("{begin} {text}")));
            }
            Content::Format(format) => form(format, lark, depth)?,
        };
        Ok(lark.rule(&format!("{begin} {content} {end}")))
    }
}

fn is_any_text(format: &Value) -> bool {
    format.get("type").and_then(Value::as_str) == Some("any_text")
}

/// The rule of a format.
fn form(format: &Value, lark: &mut Lark<'_>, depth: usize) -> Result<String, String> {
    if depth == 0 {
        return Err(format!("has formats nested more than {MAX_DEPTH} deep; use fewer"));
    }
    let fields = format.as_object().ok_or("has a format that is no object")?;
    let all = |name, lark: &mut Lark<'_>| -> Result<Vec<String>, String> {
        list(fields, name)?.iter().map(|part| form(part, lark, depth - 1)).collect()
    };
    match text(format, "type")? {
        "any_text" => Ok("TEXT".into()),
        "const_string" => Ok(lark.literal(text(format, "value")?)),
        "json_schema" => {
            let schema = field(format, "json_schema")?;
            lark.json(schema).map_err(|problem| format!("has a schema that {problem}"))
        }
        "regex" => Ok(lark.regex(text(format, "pattern")?)),
        "sequence" => {
            let forms = all("elements", lark)?;
            Ok(lark.rule(&forms.join(" ")))
        }
        "or" => {
            let forms = all("elements", lark)?;
            Ok(lark.any_of(&forms))
        }
        "tag" => Tag::of(format)?.behind("", lark, depth - 1),
        "triggered_tags" => {
            let tags = list(fields, "tags")?.iter().map(Tag::of).collect::<Result<Vec<_>, String>>()?;
            let wish = |name| fields.get(name) == Some(&Value::Bool(true));
            let wishes = [wish("at_least_one"), wish("stop_after_first")];
            triggered(&tags, &texts(fields, "triggers")?, wishes, lark, depth - 1)
        }
        other => Err(format!(
            "has the format {other:?}, which is not read; use any_text, const_string, json_schema, regex, sequence, or, tag, \
             triggered_tags"
        )),
    }
}

/// Text with tags in it: behind each trigger one of the tags goes on that begin with it.
fn triggered(
    tags: &[Tag<'_>],
    triggers: &[&str],
    [at_least_one, stop_after_first]: [bool; 2],
    lark: &mut Lark<'_>,
    depth: usize,
) -> Result<String, String> {
    let triggers: Vec<&str> = triggers.iter().copied().filter(|trigger| !trigger.is_empty()).collect();
    if triggers.is_empty() {
        return Err("has no triggers; give at least one text".into());
    }
    // One trigger a tag: a tag behind several would be written as often, and as often again inside
    // of each other.
    for tag in tags {
        let problem = match triggers.iter().filter(|trigger| tag.begin.starts_with(**trigger)).count() {
            1 => continue,
            0 => "which none of its triggers begins; add one",
            _ => "which several of its triggers begin; leave one of them",
        };
        return Err(format!("has the begin {:?}, {problem}", tag.begin));
    }
    let mut forms = Vec::new();
    for trigger in triggers {
        let text = lark.text_until(trigger)?;
        let tags = tags.iter().filter(|tag| tag.begin.starts_with(trigger));
        let tags = tags.map(|tag| tag.behind(trigger, lark, depth)).collect::<Result<Vec<_>, String>>()?;
        if tags.is_empty() {
            return Err(format!("has the trigger {trigger:?}, which begins none of its tags; leave it out"));
        }
        let any = lark.any_of(&tags);
        forms.push(lark.rule(&format!("{text} {any}")));
    }
    let one = lark.any_of(&forms);
    let body = match (at_least_one, stop_after_first) {
        (false, false) => format!("{one}* TEXT"),
        (true, false) => format!("{one}+ TEXT"),
        (false, true) => format!("TEXT | {one}"),
        (true, true) => one,
    };
    Ok(lark.rule(&body))
}

fn field<'a>(of: &'a Value, name: &str) -> Result<&'a Value, String> {
    of.get(name).ok_or_else(|| format!("lacks `{name}` in {}", short(of)))
}

fn text<'a>(of: &'a Value, name: &str) -> Result<&'a str, String> {
    field(of, name)?.as_str().ok_or_else(|| format!("has `{name}` in {}, which must be a text", short(of)))
}

fn list<'a>(of: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], String> {
    let list = of.get(name).and_then(Value::as_array).map(Vec::as_slice);
    list.filter(|list| !list.is_empty()).ok_or_else(|| format!("lacks `{name}`, a list that is not empty"))
}

fn texts<'a>(of: &'a Map<String, Value>, name: &str) -> Result<Vec<&'a str>, String> {
    let texts = list(of, name)?.iter().map(Value::as_str);
    texts.collect::<Option<_>>().ok_or_else(|| format!("has `{name}` that are no texts"))
}

/// A value as far as a message shows it.
fn short(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text,
    }
}
