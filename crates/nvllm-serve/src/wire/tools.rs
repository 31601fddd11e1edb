//! Functions that a model may call, and its calls, in `OpenAI`'s words for chats.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A function that the model may call.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Tool {
    /// `function`.
    pub(crate) r#type: Option<String>,
    pub(crate) function: Option<Function>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Function {
    /// Letters, digits, `_`, `-`, `.`, `:` and `/`.
    pub(crate) name: Option<String>,
    /// When to call it, for the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// A JSON schema of its arguments; none if absent.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parameters: Option<Map<String, Value>>,
    /// Whether arguments follow the schema; with `required` and a named function they do anyway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strict: Option<bool>,
}

/// Whether functions are called, and which.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(
    untagged,
    expecting = "give none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ..}}"
)]
pub(crate) enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    Named(NamedTool),
}

/// The function that is to be called.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct NamedTool {
    /// `function`.
    pub(crate) r#type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) function: Option<Named>,
    /// In the form of Responses, which has no `function` around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Named {
    pub(crate) name: Option<String>,
}

/// A call of an earlier answer, as it is sent back.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct EarlierCall {
    pub(crate) id: Option<String>,
    /// `function`.
    pub(crate) r#type: Option<String>,
    pub(crate) function: Option<Called>,
    /// Where it stands in the body of a route that has another form.
    #[serde(skip)]
    pub(crate) place: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Called {
    pub(crate) name: Option<String>,
    /// A JSON object, as text or as it is.
    pub(crate) arguments: Option<Value>,
}

/// A call of an answer. In a stream the first piece has the id and the name, and the later ones
/// only what is new of the arguments: clients join the texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ToolCall {
    /// Of a stream: which call of the answer, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// `function`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) r#type: Option<&'static str>,
    pub(crate) function: CalledFunction,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct CalledFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// JSON as text.
    pub(crate) arguments: String,
}
