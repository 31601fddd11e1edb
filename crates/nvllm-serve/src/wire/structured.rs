//! What an answer is to look like: the fields of `OpenAI` and of vLLM.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The form of the answer, in `OpenAI`'s words.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object`, `json_schema` or `structural_tag`.
    pub(crate) r#type: Option<String>,
    /// With `json_schema`.
    pub(crate) json_schema: Option<JsonSchema>,
    /// With `structural_tag`, in its newer form.
    pub(crate) format: Option<Value>,
    /// With `structural_tag`: parts, each with `begin`, `schema` and `end`.
    pub(crate) structures: Option<Value>,
    /// With `structural_tag`: texts behind which one of the parts follows.
    pub(crate) triggers: Option<Value>,
}

/// A JSON schema with its name.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct JsonSchema {
    /// Without effect.
    pub(crate) name: Option<String>,
    /// Without effect.
    pub(crate) description: Option<String>,
    /// The answer follows it, `strict` or not.
    pub(crate) schema: Option<Value>,
    /// Without effect.
    pub(crate) strict: Option<bool>,
}

/// The form of the answer, in vLLM's words: exactly one of them.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema, as an object or as its text.
    pub(crate) json: Option<Value>,
    /// A regular expression that matches the whole answer.
    pub(crate) regex: Option<String>,
    /// The answer is one of these.
    pub(crate) choice: Option<Vec<String>>,
    /// A grammar in Lark syntax.
    pub(crate) grammar: Option<String>,
    /// Any JSON object.
    pub(crate) json_object: Option<bool>,
    /// Free text with parts that have a form.
    pub(crate) structural_tag: Option<Value>,
}
