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
            // What one type takes whole, another may have read in part.
            Some(before) => {
                let both = before.iter().filter(|path| is_covered(path, &ignored));
                let both = both.chain(ignored.iter().filter(|path| is_covered(path, &before)));
                both.cloned().collect()
            }
        });
        Ok(value)
    }

    /// All fields as they came.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Fields that nothing has read, as paths without the places in lists.
    pub(crate) fn left_over(&self) -> impl Iterator<Item = String> {
        // `?` stands for what may be null.
        let is_place = |part: &&str| *part == "?" || part.bytes().all(|byte| byte.is_ascii_digit());
        let name = move |path: &String| {
            let parts: Vec<_> = path.split('.').filter(|part| !is_place(part)).collect();
            parts.join(".")
        };
        self.left_over.iter().flatten().map(name)
    }
}

/// Whether `path` or a parent of it is among `ignored`.
fn is_covered(path: &str, ignored: &BTreeSet<String>) -> bool {
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
    ends.into_iter().any(|end| ignored.contains(&path[..end]))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::chat::ChatFields;
    use crate::wire::sampling::SamplingFields;

    #[test]
    fn what_nobody_reads_is_left_over_also_inside_of_what_is_read() {
        let json = br#"{"messages": [{"role": "user", "content": "a", "prefix": true}], "mine": {"a": 1},
                       "temperature": 1, "stream_options": {"include_usage": true, "more": 1}}"#;
        let mut body = Body::parse(json).unwrap();
        body.read::<ChatFields>().unwrap();
        body.read::<SamplingFields>().unwrap();
        let left_over: Vec<_> = body.left_over().collect();
        assert_eq!(left_over, ["messages.prefix", "mine", "stream_options.more"]);
    }
}
