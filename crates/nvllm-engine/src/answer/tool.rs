//! A tool that a model may call.

use serde_json::{Value, json};

/// What is known of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// The name that it is called by.
    pub name: String,
    /// The JSON schema of its arguments; an object without properties if there are none.
    pub parameters: Value,
    /// Whether arguments must follow the schema.
    pub strict: bool,
}

impl Tool {
    /// A tool in `OpenAI`'s form: `{"type": "function", "function": {"name": .., "parameters":
    /// {..}, "strict": ..}}`, or the inner object alone, as the Responses API has it.
    ///
    /// Errors with what is wrong.
    pub fn from_openai(tool: &Value) -> Result<Self, String> {
        let function = tool.get("function").unwrap_or(tool);
        let name = match function.get("name") {
            Some(Value::String(name)) if !name.is_empty() => name.clone(),
            Some(other) => return Err(format!("has the name {other}; give a text")),
            None => return Err("has no name".into()),
        };
        let parameters = match function.get("parameters") {
            None | Some(Value::Null) => json!({ "type": "object", "properties": {} }),
            Some(schema @ Value::Object(_)) => schema.clone(),
            Some(_) => return Err(format!("`{name}` has parameters that are no JSON schema")),
        };
        let strict = match function.get("strict") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(strict)) => *strict,
            Some(other) => return Err(format!("`{name}` has strict {other}; give true or false")),
        };
        Ok(Self { name, parameters, strict })
    }
}
