//! Hugging Face `config.json`: typed fields with errors that name them, in both layouts (hub,
//! transformers 5).

use serde_json::{Map, Value};

use crate::{CoreError, DType, Result};

/// A parsed config.json.
#[derive(Clone, Debug)]
pub struct HfConfig(Map<String, Value>);

/// No extent of a model is larger: guards products against overflow.
const MAX_EXTENT: usize = 1 << 28;

impl HfConfig {
    /// Parses the file's text.
    pub fn parse(text: &[u8]) -> Result<Self> {
        match serde_json::from_slice(text) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(CoreError::config("(whole file)", "is not a JSON object")),
            Err(e) => Err(CoreError::config("(whole file)", format!("is not JSON: {e}"))),
        }
    }

    /// The field, unless absent or null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    /// Whether the file has the field, be it null.
    pub fn names(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// A required extent, at least 1.
    pub fn extent(&self, field: &str) -> Result<usize> {
        self.extent_opt(field)?.ok_or_else(|| CoreError::config(field, "is missing"))
    }

    /// An extent, at least 1, if present.
    pub fn extent_opt(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if (1..=MAX_EXTENT as u64).contains(&n) => Ok(Some(n as usize)),
            _ => Err(CoreError::config(
                field,
                format!("is {value}; a number from 1 to {MAX_EXTENT} is needed"),
            )),
        }
    }

    /// A finite number, or `default`.
    pub fn number_or(&self, field: &str, default: f64) -> Result<f64> {
        number(field, self.get(field))?.map_or(Ok(default), Ok)
    }

    /// A flag, or `default`.
    pub fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| CoreError::config(field, format!("is {value}; true or false is needed"))),
        }
    }

    /// A list of numbers, or an empty one.
    pub fn indices(&self, field: &str) -> Result<Vec<usize>> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let list = value.as_array().and_then(|l| l.iter().map(|v| v.as_u64().map(|n| n as usize)).collect());
        list.ok_or_else(|| CoreError::config(field, format!("is {value}; a list of numbers is needed")))
    }

    /// A list of strings, if present.
    pub fn strings(&self, field: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|l| l.iter().map(|v| v.as_str().map(String::from)).collect());
        list.map(Some)
            .ok_or_else(|| CoreError::config(field, format!("is {value}; a list of strings is needed")))
    }

    /// Refuses any value of `field` but `only`; absent is fine.
    pub fn require(&self, field: &str, only: &str) -> Result<()> {
        match self.get(field) {
            Some(value) if value.as_str() != Some(only) => {
                Err(CoreError::config(field, format!("is {value}; \"{only}\" is supported")))
            }
            _ => Ok(()),
        }
    }

    /// The first of `architectures`.
    pub fn architecture(&self) -> Result<String> {
        self.strings("architectures")?.and_then(|list| list.into_iter().next()).ok_or_else(|| {
            CoreError::config("architectures", "is missing; it names the model's architecture")
        })
    }

    /// The checkpoint's dtype (`dtype` or `torch_dtype`), if the file says one: `auto` leaves it to
    /// the tensors.
    pub fn dtype(&self) -> Result<Option<DType>> {
        let field = if self.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        match self.get(field).and_then(Value::as_str) {
            None | Some("auto") => Ok(None),
            Some("bfloat16") => Ok(Some(DType::Bf16)),
            Some("float16") => Ok(Some(DType::F16)),
            Some("float32") => Ok(Some(DType::F32)),
            Some(other) => Err(CoreError::config(
                field,
                format!("is {other}; bfloat16, float16 and float32 are supported"),
            )),
        }
    }

    /// The file's content.
    pub fn to_json(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// This config with another value of `field`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0.insert(field.into(), value.into());
        self
    }
}

pub(crate) fn number(field: &str, value: Option<&Value>) -> Result<Option<f64>> {
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(None) };
    match value.as_f64() {
        Some(x) if x.is_finite() && x >= 0.0 => Ok(Some(x)),
        _ => Err(CoreError::config(field, format!("is {value}; a number of at least 0 is needed"))),
    }
}
