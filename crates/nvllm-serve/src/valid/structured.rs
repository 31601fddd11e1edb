//! The one form that an answer is asked to have.

use nvllm_engine::grammar::StructuredOutput;
use serde_json::Value;

use crate::error::ApiError;
use crate::wire::sampling::SamplingFields;
use crate::wire::structured::{JsonSchema, ResponseFormat, StructuredOutputs};

/// A form, and the parameter that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Structured {
    pub(crate) param: String,
    pub(crate) output: StructuredOutput,
    /// Its parts with their parameters: one of them is named where the whole is at fault.
    pub(crate) parts: Vec<(String, StructuredOutput)>,
}

impl Structured {
    /// What `wire` asks for. Errors if it asks for two forms, or for one that there is not.
    pub(crate) fn new(wire: &mut SamplingFields) -> Result<Option<Self>, ApiError> {
        let mut asked = Vec::new();
        asked.extend(wire.response_format.take().map(response_format).transpose()?.flatten());
        if let Some(outputs) = wire.structured_outputs.take() {
            asked.extend(structured_outputs(outputs)?);
        }
        asked.extend(wire.guided_json.take().map(|schema| json("guided_json", schema)).transpose()?);
        let guided = [
            ("guided_regex", wire.guided_regex.take().map(StructuredOutput::Regex)),
            ("guided_choice", wire.guided_choice.take().map(StructuredOutput::Choice)),
            ("guided_grammar", wire.guided_grammar.take().map(StructuredOutput::Grammar)),
        ];
        asked.extend(guided.into_iter().filter_map(|(param, output)| Some(Self::of(param, output?))));
        let mut asked = asked.into_iter();
        match (asked.next(), asked.next()) {
            (Some(first), Some(second)) => {
                let problem = format!("cannot be combined with {}; give one of them", first.param);
                Err(ApiError::bad(second.param, problem))
            }
            (one, _) => Ok(one),
        }
    }

    fn of(param: impl Into<String>, output: StructuredOutput) -> Self {
        Self { param: param.into(), output, parts: Vec::new() }
    }
}

fn response_format(format: ResponseFormat) -> Result<Option<Structured>, ApiError> {
    match format.r#type.as_deref() {
        None | Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Structured::of("response_format", StructuredOutput::JsonObject))),
        Some("json_schema") => {
            let param = "response_format.json_schema";
            let JsonSchema { schema, .. } =
                format.json_schema.ok_or_else(|| ApiError::bad(param, "is missing; give name and schema"))?;
            let param = format!("{param}.schema");
            let schema = schema.ok_or_else(|| ApiError::bad(&*param, "is missing; give a JSON schema"))?;
            json(&param, schema).map(Some)
        }
        Some("structural_tag") => {
            let fields =
                [("format", format.format), ("structures", format.structures), ("triggers", format.triggers)];
            let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            let tag = StructuredOutput::StructuralTag(fields.collect::<serde_json::Map<_, _>>().into());
            Ok(Some(Structured::of("response_format", tag)))
        }
        Some(other) => {
            let problem = format!("is {other:?}; give text, json_object, json_schema or structural_tag");
            Err(ApiError::bad("response_format.type", problem))
        }
    }
}

fn structured_outputs(outputs: StructuredOutputs) -> Result<Vec<Structured>, ApiError> {
    const KINDS: &str = "json, regex, choice, grammar, json_object and structural_tag";
    let StructuredOutputs { json: schema, regex, choice, grammar, json_object, structural_tag } = outputs;
    let param = |field: &str| format!("structured_outputs.{field}");
    let schema = schema.map(|schema| json(&param("json"), schema)).transpose()?;
    let tag = structural_tag.map(|tag| value(&param("structural_tag"), tag)).transpose()?;
    let object = (json_object == Some(true)).then_some(StructuredOutput::JsonObject);
    let others = [
        ("regex", regex.map(StructuredOutput::Regex)),
        ("choice", choice.map(StructuredOutput::Choice)),
        ("grammar", grammar.map(StructuredOutput::Grammar)),
        ("json_object", object),
        ("structural_tag", tag.map(StructuredOutput::StructuralTag)),
    ];
    let others = others.into_iter().filter_map(|(field, output)| Some(Structured::of(param(field), output?)));
    let asked: Vec<_> = schema.into_iter().chain(others).collect();
    if asked.is_empty() && json_object.is_none() {
        let problem = format!("asks for nothing; give one of {KINDS}, or leave it out");
        return Err(ApiError::bad("structured_outputs", problem));
    }
    Ok(asked)
}

/// A schema, which some clients send as text.
fn json(param: &str, schema: Value) -> Result<Structured, ApiError> {
    Ok(Structured::of(param, StructuredOutput::Json(value(param, schema)?)))
}

/// A value, or the one that a text is.
fn value(param: &str, wire: Value) -> Result<Value, ApiError> {
    match wire {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|e| ApiError::bad(param, format!("is a text that is not JSON: {e}"))),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(fields: &Value) -> Result<Option<Structured>, ApiError> {
        Structured::new(&mut serde_json::from_value(fields.clone()).unwrap())
    }

    #[test]
    fn every_name_of_a_form_is_known() {
        let schema = json!({ "type": "object" });
        let as_json = StructuredOutput::Json(schema.clone());
        let tag = json!({ "structures": [], "triggers": ["a"] });
        let [regex, grammar] = ["a+", "start: \"a\""].map(String::from);
        for (fields, param, output) in [
            (
                json!({ "response_format": { "type": "json_object" } }),
                "response_format",
                StructuredOutput::JsonObject,
            ),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": schema, "strict": true } } }),
                "response_format.json_schema.schema",
                as_json.clone(),
            ),
            (json!({ "structured_outputs": { "json": schema } }), "structured_outputs.json", as_json.clone()),
            (
                json!({ "structured_outputs": { "json": schema.to_string() } }),
                "structured_outputs.json",
                as_json.clone(),
            ),
            (
                json!({ "structured_outputs": { "json_object": true } }),
                "structured_outputs.json_object",
                StructuredOutput::JsonObject,
            ),
            (
                json!({ "structured_outputs": { "regex": regex } }),
                "structured_outputs.regex",
                StructuredOutput::Regex(regex.clone()),
            ),
            (
                json!({ "structured_outputs": { "structural_tag": tag.to_string() } }),
                "structured_outputs.structural_tag",
                StructuredOutput::StructuralTag(tag.clone()),
            ),
            (
                json!({ "response_format": { "type": "structural_tag", "structures": [], "triggers": ["a"] } }),
                "response_format",
                StructuredOutput::StructuralTag(tag.clone()),
            ),
            (json!({ "guided_json": schema }), "guided_json", as_json.clone()),
            (json!({ "guided_regex": regex }), "guided_regex", StructuredOutput::Regex(regex.clone())),
            (json!({ "guided_choice": ["a"] }), "guided_choice", StructuredOutput::Choice(vec!["a".into()])),
            (
                json!({ "guided_grammar": grammar }),
                "guided_grammar",
                StructuredOutput::Grammar(grammar.clone()),
            ),
        ] {
            assert_eq!(asked(&fields).unwrap(), Some(Structured::of(param, output)), "{fields}");
        }
        for fields in [
            json!({ "response_format": { "type": "text" }, "guided_json": null, "structured_outputs": null }),
            json!({ "structured_outputs": { "json_object": false } }),
        ] {
            assert_eq!(asked(&fields).unwrap(), None, "{fields}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (fields, param) in [
            (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
            (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema"),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": {} } }),
                "response_format.json_schema.schema",
            ),
            (json!({ "structured_outputs": {} }), "structured_outputs"),
            (json!({ "structured_outputs": { "json": "{" } }), "structured_outputs.json"),
            (json!({ "structured_outputs": { "regex": "a", "choice": ["a"] } }), "structured_outputs.choice"),
            (json!({ "response_format": { "type": "json_object" }, "guided_regex": "a" }), "guided_regex"),
        ] {
            assert_eq!(asked(&fields).unwrap_err().param.as_deref(), Some(param), "{fields}");
        }
    }
}
