//! A request's body: JSON, read part by part.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// The fields of a JSON object. A route reads its types from it, one after another; a field that
/// none of them knows is left over.
pub(crate) struct Body {
    fields: Map<String, Value>,
    /// Paths that no type has read; none before the first.
    left_over: Option<BTreeSet<String>>,
}

impl Body {
    /// Errors unless the bytes are a JSON object.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let problem = |text: String| ApiError::bad_request("body", text);
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self { fields, left_over: None }),
            Ok(other) => Err(problem(format!("the body is {}; send a JSON object", kind(&other)))),
            Err(e) => Err(problem(format!("the body is not JSON that can be read: {e}"))),
        }
    }

    /// The fields of `T`. Errors with the path of the first that has another type.
    pub(crate) fn read<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let mut ignored = BTreeSet::new();
        let mut note = |path: serde_ignored::Path<'_>| {
            ignored.insert(path.to_string());
        };
        let deserializer = serde_ignored::Deserializer::new(&self.fields, &mut note);
        let read = serde_path_to_error::deserialize(deserializer);
        let value = read.map_err(|e| {
            let path = e.path().to_string();
            ApiError::bad_request(path.clone(), format!("{path}: {}", e.into_inner()))
        })?;
        self.left_over = Some(match self.left_over.take() {
            None => ignored,
            Some(before) => before.intersection(&ignored).cloned().collect(),
        });
        Ok(value)
    }

    /// All fields as they came.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Paths of the fields that nothing has read.
    pub(crate) fn left_over(&self) -> impl Iterator<Item = &str> {
        self.left_over.iter().flatten().map(String::as_str)
    }
}

/// What a JSON value is, for a message.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
