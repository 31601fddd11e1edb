//! Metadata by key, with errors that name the key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nvllm_core::{CoreError, Result};

use crate::value::{Array, Value};

/// A file's metadata. Every getter errors with [`BadMetadata`](CoreError::BadMetadata), which names
/// the key, if the value is of another type; an absent key is no error.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    pub(crate) fn new(path: &Path, values: BTreeMap<String, Value>) -> Self {
        Self { path: path.into(), values }
    }

    /// The file that they stand in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a value under `key`.
    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Every key, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The error that the value under `key` has this problem: "is missing", "is 3; 1 is needed".
    pub fn error(&self, key: &str, problem: impl Into<String>) -> CoreError {
        CoreError::BadMetadata { path: self.path.clone(), key: key.into(), problem: problem.into() }
    }

    /// A whole number of at least 0, of any integer type.
    pub fn u64_opt(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "a whole number of at least 0", |value| match *value {
            Value::Unsigned(x) => Some(x),
            Value::Signed(x) => u64::try_from(x).ok(),
            _ => None,
        })
    }

    /// A finite number of any type.
    pub fn f64_opt(&self, key: &str) -> Result<Option<f64>> {
        let number = |value: &Value| match *value {
            Value::Float(x) => Some(x),
            Value::Unsigned(x) => Some(x as f64),
            Value::Signed(x) => Some(x as f64),
            _ => None,
        };
        self.read(key, "a finite number", |value| number(value).filter(|x| x.is_finite()))
    }

    /// A truth value.
    pub fn bool_opt(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", |value| match *value {
            Value::Bool(x) => Some(x),
            _ => None,
        })
    }

    /// A text.
    pub fn str_opt(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "a text in UTF-8", |value| match value {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// An array of texts; absent: empty, as writers leave empty arrays out. Each call walks through
    /// the array.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>> {
        let texts = self.array(key, "texts", Array::texts)?;
        let text = |(i, bytes)| {
            std::str::from_utf8(bytes)
                .map_err(|_| self.error(key, format!("has element {i}, which is not UTF-8")))
        };
        texts.into_iter().enumerate().map(text).collect()
    }

    /// An array of numbers with a fraction; absent: empty.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>> {
        self.array(key, "numbers with a fraction", Array::floats)
    }

    /// An array of integers of any type, each within i32; absent: empty.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>> {
        self.array(key, "32-bit integers", |array| array.integers()?.map(|x| i32::try_from(x).ok()).collect())
    }

    /// An array of integers of any type, each within u32; absent: empty.
    pub fn u32s(&self, key: &str) -> Result<Vec<u32>> {
        self.array(key, "32-bit integers of at least 0", |array| {
            array.integers()?.map(|x| u32::try_from(x).ok()).collect()
        })
    }

    fn array<'a, T: Default>(
        &'a self,
        key: &str,
        what: &str,
        read: impl FnOnce(&'a Array) -> Option<T>,
    ) -> Result<T> {
        let found = self.read(key, &format!("an array of {what}"), |value| match value {
            Value::Array(array) => read(array),
            _ => None,
        })?;
        Ok(found.unwrap_or_default())
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let wrong = || self.error(key, format!("is {}; {what} is needed", value.describe()));
        read(value).map(Some).ok_or_else(wrong)
    }
}
