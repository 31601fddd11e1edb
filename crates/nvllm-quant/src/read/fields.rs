//! Fields of an object in config.json, with errors that name them.

use nvllm_core::{CoreError, Result};
use serde_json::{Map, Value};

/// An object, and where it stands: `quantization_config.config_groups.group_0`.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: impl Into<String>, map: &'a Map<String, Value>) -> Self {
        Self { path: path.into(), map }
    }

    /// The field, unless absent or null.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// The error that the field is not what is `supported`.
    pub(super) fn refuse(&self, field: &str, supported: &str) -> CoreError {
        self.error(
            field,
            match self.get(field) {
                Some(value) => format!("is {}; {supported}", shortened(value)),
                None => format!("is missing; {supported}"),
            },
        )
    }

    /// An error at the field.
    pub(super) fn error(&self, field: &str, problem: impl Into<String>) -> CoreError {
        CoreError::config(&self.path_of(field), problem)
    }

    /// Where the field stands.
    pub(super) fn path_of(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    /// A text, if present.
    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        self.typed(field, Value::as_str, "a string is needed")
    }

    /// A number, if present.
    pub(super) fn integer(&self, field: &str) -> Result<Option<i64>> {
        self.typed(field, Value::as_i64, "an integer is needed")
    }

    /// A flag, or `default`.
    pub(super) fn flag(&self, field: &str, default: bool) -> Result<bool> {
        Ok(self.typed(field, Value::as_bool, "true or false is needed")?.unwrap_or(default))
    }

    /// A list of texts; an empty one if absent.
    pub(super) fn texts(&self, field: &str) -> Result<Vec<String>> {
        let texts = |value: &Value| {
            value.as_array()?.iter().map(|text| text.as_str().map(String::from)).collect::<Option<Vec<_>>>()
        };
        Ok(self.typed(field, texts, "a list of strings is needed")?.unwrap_or_default())
    }

    /// An object, if present.
    pub(super) fn object(&self, field: &str) -> Result<Option<Self>> {
        let map = self.typed(field, Value::as_object, "an object is needed")?;
        Ok(map.map(|map| Self::new(self.path_of(field), map)))
    }

    /// The fields' names, in the file's order.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// Errors unless the field is absent, null, or an empty object or list.
    pub(super) fn refuse_content(&self, field: &str, supported: &str) -> Result<()> {
        let empty = |value: &Value| match value {
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        if self.get(field).is_none_or(empty) { Ok(()) } else { Err(self.refuse(field, supported)) }
    }

    fn typed<T>(&self, field: &str, of: impl Fn(&'a Value) -> Option<T>, needed: &str) -> Result<Option<T>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        of(value).map(Some).ok_or_else(|| self.refuse(field, needed))
    }
}

/// A value as a message shows it.
fn shortened(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text,
    }
}
