//! Calls whose values are written without quotes, one parameter after the other.

use serde_json::{Map, Value, json};

use super::ToolCalls;
use super::forms::{Forms, of_tool};
use crate::answer::Tool;
use crate::answer::kinds::Kinds;
use crate::grammar::lark::Lark;

/// What of a tool's schema can be followed: keywords at its top.
const KNOWN: [&str; 12] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "description",
    "title",
    "$defs",
    "definitions",
    "$schema",
    "$id",
    "default",
    "examples",
];

pub(super) fn forms(of: &ToolCalls, tools: &[&Tool], lark: &mut Lark<'_>) -> Result<Forms, String> {
    let call = |tool: &&Tool| {
        let parameters = parameters(&of.schema(tool), lark).map_err(|problem| of_tool(tool, &problem))?;
        let head = lark.literal(&format!("\n<function={}>\n", tool.name));
        let end = lark.literal("</function>\n</tool_call>");
        Ok(lark.rule(&format!("{head} {parameters} {end}")))
    };
    let calls = tools.iter().map(call).collect::<Result<_, String>>()?;
    Ok(Forms { calls, mark: "<tool_call>", begin: "", between: "\n<tool_call>", end: "" })
}

/// All parameters of a call, in the order of the schema.
fn parameters(schema: &Value, lark: &mut Lark<'_>) -> Result<String, String> {
    let empty = Map::new();
    let fields = schema.as_object().unwrap_or(&empty);
    if let Some(unknown) = fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(format!(
            "has `{unknown}` at its top, which cannot be followed in the form qwen3_coder; leave it out"
        ));
    }
    let Some(properties) = fields.get("properties").and_then(Value::as_object) else {
        // An object of which nothing is known.
        let value = lark.text_until("\n</parameter>\n")?;
        let name = lark.regex(r"[^>\n<]+");
        return Ok(lark.rule(&format!("(\"<parameter=\" {name} \">\\n\" {value})*")));
    };
    let required = |name: &String| {
        let list = fields.get("required").and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|required| required == name))
    };
    let mut forms = Vec::new();
    for (name, property) in properties {
        let value = value(property, schema, lark).map_err(|problem| format!("of {name:?} {problem}"))?;
        let head = lark.literal(&format!("<parameter={name}>\n"));
        let optional = if required(name) { "" } else { "?" };
        forms.push(format!("({head} {value}){optional}"));
    }
    Ok(if forms.is_empty() { "\"\"".into() } else { forms.join(" ") })
}

/// A value, with the mark behind it.
fn value(property: &Value, root: &Value, lark: &mut Lark<'_>) -> Result<String, String> {
    const END: &str = "\n</parameter>\n";
    let chosen = property.get("enum").and_then(Value::as_array).map(Vec::as_slice);
    let chosen = chosen.or_else(|| property.get("const").map(std::slice::from_ref));
    let end = lark.literal(END);
    if let Some(values) = chosen {
        let texts = values.iter().map(|value| match value {
            Value::String(text) => lark.literal(text),
            other => lark.literal(&other.to_string()),
        });
        let texts: Vec<_> = texts.collect();
        return Ok(format!("{} {end}", lark.any_of(&texts)));
    }
    let kinds = Kinds::of(property, root);
    if !kinds.may_be_text() {
        let mut property = property.clone();
        if let Some(property) = property.as_object_mut() {
            for definitions in ["$defs", "definitions"] {
                if let Some(known) = root.get(definitions) {
                    property.entry(definitions).or_insert_with(|| known.clone());
                }
            }
        }
        let property = if property.is_object() { property } else { json!({}) };
        let value = lark.json(&property)?;
        return Ok(format!("{value} {end}"));
    }
    if let Some(keyword) = ["pattern", "format"].into_iter().find(|keyword| property.get(*keyword).is_some())
    {
        return Err(format!(
            "has `{keyword}` for a text, which cannot be followed in the form qwen3_coder; leave it out"
        ));
    }
    let bound = |name| property.get(name).and_then(Value::as_u64);
    match (bound("minLength"), bound("maxLength")) {
        (None, None) => lark.text_until(END),
        (least, most) => {
            let most = most.map(|most| most.to_string()).unwrap_or_default();
            // One line: where a text with lines ends could not be told.
            let text = lark.regex(&format!("[^\\n]{{{},{most}}}", least.unwrap_or(0)));
            Ok(format!("{text} {end}"))
        }
    }
}
