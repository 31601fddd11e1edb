//! The functions that an answer may call.

use nvllm_engine::grammar::{StructuredOutput, ToolCalls, ToolChoice as Calling};
use nvllm_engine::{ToolFormat, answer};
use serde_json::{Map, Value, json};

use super::structured::Structured;
use crate::error::ApiError;
use crate::wire::tools::{Function, NamedTool, Tool, ToolChoice};

/// Longest name of a function, in bytes.
const MAX_NAME: usize = 128;
/// Functions of one request.
const MAX_TOOLS: usize = 512;

/// What a request says of functions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    /// None if the answer is to call none.
    pub(crate) definitions: Vec<Definition>,
    pub(crate) choice: Choice,
    /// Whether an answer may call more than one.
    pub(crate) parallel: bool,
}

/// A function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// A JSON schema of its arguments.
    pub(crate) parameters: Value,
    /// Whether arguments follow the schema even where the model is free to call or not.
    pub(crate) strict: bool,
    /// Where the schema stands in the body.
    pub(crate) param: String,
}

/// Whether functions are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// As the model likes.
    #[default]
    Auto,
    /// At least one is.
    Required,
    /// This one is: an index into the definitions.
    Named(usize),
}

/// How a route calls the parts of a function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    /// What stands before the fields of a function: chats have an object around them.
    pub(crate) inner: &'static str,
    pub(crate) schema: &'static str,
}

/// Those of chats.
pub(crate) const CHAT: Words = Words { inner: "function.", schema: "parameters" };

impl Tools {
    /// Errors with the first field that cannot be met.
    pub(crate) fn new(
        wire: Vec<Tool>,
        choice: Option<&ToolChoice>,
        parallel: bool,
        words: Words,
    ) -> Result<Self, ApiError> {
        if wire.len() > MAX_TOOLS {
            let problem = format!("has {} functions; give at most {MAX_TOOLS}", wire.len());
            return Err(ApiError::bad("tools", problem));
        }
        let mut definitions: Vec<Definition> = Vec::with_capacity(wire.len());
        for (at, tool) in wire.into_iter().enumerate() {
            let definition = definition(at, tool, words)?;
            if let Some(first) = definitions.iter().position(|known| known.name == definition.name) {
                let problem =
                    format!("is {:?}, the name of tools[{first}] too; give each its own", definition.name);
                return Err(ApiError::bad(format!("tools[{at}].{}name", words.inner), problem));
            }
            definitions.push(definition);
        }
        let asked = choice.map(|choice| asked(choice, words)).transpose()?.unwrap_or(Asked::Auto);
        let needs_tools = matches!(asked, Asked::Required | Asked::Named(_));
        if needs_tools && definitions.is_empty() {
            return Err(ApiError::bad(
                "tool_choice",
                "asks for a call and there are no tools; give tools with it",
            ));
        }
        let choice = match asked {
            Asked::Nothing => {
                definitions.clear();
                Choice::Auto
            }
            Asked::Auto => Choice::Auto,
            Asked::Required => Choice::Required,
            Asked::Named(name) => {
                let at = definitions.iter().position(|known| known.name == name).ok_or_else(|| {
                    let names: Vec<_> = definitions.iter().map(|known| known.name.as_str()).collect();
                    let problem = format!("is {name:?}, which is none of the tools: {}", names.join(", "));
                    ApiError::bad(format!("tool_choice.{}name", words.inner), problem)
                })?;
                Choice::Named(at)
            }
        };
        Ok(Self { definitions, choice, parallel })
    }

    /// What an answer has to follow, of a model that writes calls in this `format`; none if it may
    /// call as it likes.
    pub(crate) fn structured(&self, format: ToolFormat) -> Option<Structured> {
        let choice = match self.choice {
            Choice::Auto => Calling::Auto,
            Choice::Required => Calling::Required,
            Choice::Named(at) => Calling::Named(self.definitions.get(at)?.name.clone()),
        };
        let (tools, parallel) = (self.for_parser(), self.parallel);
        let calls = ToolCalls { format, tools, choice, parallel };
        if self.definitions.is_empty() || !calls.restrict() {
            return None;
        }
        let part = |tool: &Definition| (tool.param.clone(), StructuredOutput::Json(tool.parameters.clone()));
        let output = StructuredOutput::ToolCalls(calls);
        Some(Structured { param: "tools".into(), output, parts: self.definitions.iter().map(part).collect() })
    }

    /// As answers are read with them.
    pub(crate) fn for_parser(&self) -> Vec<answer::Tool> {
        let tool = |tool: &Definition| answer::Tool {
            name: tool.name.clone(),
            parameters: tool.parameters.clone(),
            strict: tool.strict,
        };
        self.definitions.iter().map(tool).collect()
    }

    /// As templates print them.
    pub(crate) fn for_template(&self) -> Vec<Value> {
        let function = |tool: &Definition| {
            let mut function = Map::new();
            function.insert("name".into(), json!(tool.name));
            function.extend(tool.description.as_ref().map(|text| ("description".to_owned(), json!(text))));
            function.insert("parameters".into(), tool.parameters.clone());
            json!({ "type": "function", "function": function })
        };
        self.definitions.iter().map(function).collect()
    }
}

/// What `tool_choice` asks for.
enum Asked<'a> {
    Nothing,
    Auto,
    Required,
    Named(&'a str),
}

fn asked(choice: &ToolChoice, words: Words) -> Result<Asked<'_>, ApiError> {
    let named = match choice {
        ToolChoice::Mode(mode) => {
            return match mode.as_str() {
                "none" => Ok(Asked::Nothing),
                "auto" | "" => Ok(Asked::Auto),
                "required" => Ok(Asked::Required),
                other => {
                    let problem = format!("is {other:?}; give none, auto, required or a function");
                    Err(ApiError::bad("tool_choice", problem))
                }
            };
        }
        ToolChoice::Named(named) => named,
    };
    let NamedTool { r#type, function, name } = named;
    if r#type.as_deref() != Some("function") {
        let problem = format!("is {:?}; give function", r#type.as_deref().unwrap_or_default());
        return Err(ApiError::bad("tool_choice.type", problem));
    }
    // Some clients write one route's form to the other.
    let name = function.as_ref().and_then(|function| function.name.as_ref()).or(name.as_ref());
    let missing =
        || ApiError::bad(format!("tool_choice.{}name", words.inner), "is missing; give a tool's name");
    name.map(|name| Asked::Named(name)).ok_or_else(missing)
}

fn definition(at: usize, tool: Tool, words: Words) -> Result<Definition, ApiError> {
    if tool.r#type.as_deref() != Some("function") {
        let kind = tool.r#type.unwrap_or_default();
        return Err(ApiError::bad(format!("tools[{at}].type"), format!("is {kind:?}; give function")));
    }
    let Function { name, description, parameters, strict } = tool.function.unwrap_or_default();
    let param = |field: &str| format!("tools[{at}].{}{field}", words.inner);
    let name = name.ok_or_else(|| ApiError::bad(param("name"), "is missing; give a name"))?;
    check_name(&param("name"), &name)?;
    let mut parameters = parameters.unwrap_or_default();
    // One without arguments. Templates look into both.
    parameters.entry("type").or_insert_with(|| json!("object"));
    if parameters.get("type").is_some_and(|kind| kind != "object") {
        let problem = format!("is {}; arguments are an object", parameters["type"]);
        return Err(ApiError::bad(format!("{}.type", param(words.schema)), problem));
    }
    parameters.entry("properties").or_insert_with(|| json!({}));
    if !parameters["properties"].is_object() {
        let problem = "must be an object, with a schema for each argument";
        return Err(ApiError::bad(format!("{}.properties", param(words.schema)), problem));
    }
    let (strict, param) = (strict.unwrap_or(false), param(words.schema));
    Ok(Definition { name, description, parameters: parameters.into(), strict, param })
}

/// Errors unless a name can stand in any model's format.
pub(super) fn check_name(param: &str, name: &str) -> Result<(), ApiError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fits) {
        let problem = format!("must have 1 to {MAX_NAME} letters, digits, _, -, ., : or /");
        return Err(ApiError::bad(param, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(fields: &Value) -> Result<Tools, ApiError> {
        let list = serde_json::from_value(fields["tools"].clone()).unwrap();
        let choice: Option<ToolChoice> = serde_json::from_value(fields["tool_choice"].clone()).unwrap();
        Tools::new(list, choice.as_ref(), true, CHAT)
    }

    fn tool(name: &str) -> Value {
        json!({ "type": "function", "function": { "name": name } })
    }

    #[test]
    fn a_choice_names_one_of_the_tools() {
        let list = [tool("a"), tool("b.c")];
        let named = |name: &str| json!({ "type": "function", "function": { "name": name } });
        for (choice, expected, num_tools) in [
            (json!(null), Choice::Auto, 2),
            (json!("auto"), Choice::Auto, 2),
            (json!("none"), Choice::Auto, 0),
            (json!("required"), Choice::Required, 2),
            (named("b.c"), Choice::Named(1), 2),
            (json!({ "type": "function", "name": "a" }), Choice::Named(0), 2),
        ] {
            let tools = tools(&json!({ "tools": list, "tool_choice": choice })).unwrap();
            assert_eq!((tools.choice, tools.definitions.len()), (expected, num_tools), "{choice}");
        }
    }

    #[test]
    fn templates_get_tools_without_what_models_were_not_trained_with() {
        let schema =
            json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
        let given = json!({ "type": "function", "function": {
            "name": "f", "description": "d", "parameters": schema, "strict": true } });
        let tools = tools(&json!({ "tools": [given, tool("g")] })).unwrap();
        let expected = json!({ "type": "function", "function": { "name": "f", "description": "d", "parameters": schema } });
        let none = json!({ "type": "object", "properties": {} });
        let second = json!({ "type": "function", "function": { "name": "g", "parameters": none } });
        assert_eq!(tools.for_template(), [expected, second]);
        assert_eq!(tools.definitions.iter().map(|tool| tool.strict).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let with = |function: Value| json!({ "tools": [{ "type": "function", "function": function }] });
        for (fields, param) in [
            (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
            (json!({ "tools": [{ "function": { "name": "f" } }] }), "tools[0].type"),
            (json!({ "tools": [{ "type": "function" }] }), "tools[0].function.name"),
            (with(json!({ "name": "" })), "tools[0].function.name"),
            (with(json!({ "name": "a b" })), "tools[0].function.name"),
            (with(json!({ "name": "x".repeat(200) })), "tools[0].function.name"),
            (
                with(json!({ "name": "f", "parameters": { "type": "string" } })),
                "tools[0].function.parameters.type",
            ),
            (
                with(json!({ "name": "f", "parameters": { "properties": [] } })),
                "tools[0].function.parameters.properties",
            ),
            (json!({ "tools": [tool("f"), tool("f")] }), "tools[1].function.name"),
            (json!({ "tools": vec![tool("f"); 600] }), "tools"),
            (json!({ "tools": [], "tool_choice": "required" }), "tool_choice"),
            (json!({ "tools": [], "tool_choice": tool("f") }), "tool_choice"),
            (json!({ "tools": [tool("f")], "tool_choice": tool("g") }), "tool_choice.function.name"),
            (json!({ "tools": [tool("f")], "tool_choice": "any" }), "tool_choice"),
            (json!({ "tools": [tool("f")], "tool_choice": { "type": "allowed_tools" } }), "tool_choice.type"),
            (
                json!({ "tools": [tool("f")], "tool_choice": { "type": "function" } }),
                "tool_choice.function.name",
            ),
        ] {
            assert_eq!(tools(&fields).unwrap_err().param.as_deref(), Some(param), "{fields}");
        }
    }
}
