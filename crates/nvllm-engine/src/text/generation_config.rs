//! A checkpoint's defaults for sampling: `generation_config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{EngineError, Result};

/// What `generation_config.json` recommends. A field that the file lacks is `None` (or empty): the caller's own default
/// applies, or `config.json`'s for the end-of-text ids.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfig {
    /// Tokens that end a text (`eos_token_id`, a number or a list), in the file's order.
    pub eos_token_ids: Vec<u32>,
    /// The token that begins a text (`bos_token_id`).
    pub bos_token_id: Option<u32>,
    /// Whether to sample at all; if false the most likely token is taken.
    pub do_sample: Option<bool>,
    /// Temperature, at least 0; 0 means the most likely token.
    pub temperature: Option<f32>,
    /// Sample from this many of the likeliest tokens; 0 means all.
    pub top_k: Option<u32>,
    /// Sample from the smallest set of tokens with this share of the probability, in (0, 1].
    pub top_p: Option<f32>,
    /// Sample from tokens at least this likely relative to the likeliest, in \[0, 1].
    pub min_p: Option<f32>,
    /// Divides (or multiplies, below zero) the logits of tokens that have occurred; above 0, 1 changes nothing.
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`EngineError::ReadFile`], and those of [`from_bytes`](Self::from_bytes).
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|cause| EngineError::ReadFile { path: path.to_path_buf(), cause })?;
        Self::from_bytes(&bytes, path)
    }

    /// Reads the file if the model has one; without it nothing is recommended.
    ///
    /// # Errors
    /// Those of [`from_file`](Self::from_file).
    pub fn from_optional_file(path: Option<&Path>) -> Result<Self> {
        path.map_or_else(|| Ok(Self::default()), Self::from_file)
    }

    /// Parses the content of a file; `path` is for messages. Unknown fields are ignored, `null` counts as absent.
    ///
    /// # Errors
    /// [`EngineError::Json`] for malformed JSON, [`EngineError::Field`] for a value of the wrong type or out of range.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let fields: Value = serde_json::from_slice(bytes)
            .map_err(|cause| EngineError::Json { path: path.to_path_buf(), cause })?;
        let Value::Object(fields) = fields else {
            return Err(EngineError::field(path, "(whole file)", "must be a JSON object"));
        };
        let fields = Fields { path, fields };
        Ok(Self {
            eos_token_ids: fields.ids("eos_token_id")?,
            bos_token_id: fields.ids("bos_token_id")?.first().copied(),
            do_sample: fields.get("do_sample", "true or false", Value::as_bool)?,
            temperature: fields.number("temperature", "a number of at least 0", |x| x >= 0.0)?,
            top_k: fields.get("top_k", "a whole number of at least 0", as_u32)?,
            top_p: fields.number("top_p", "a number above 0 and up to 1", |x| x > 0.0 && x <= 1.0)?,
            min_p: fields.number("min_p", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?,
            repetition_penalty: fields.number("repetition_penalty", "a number above 0", |x| x > 0.0)?,
        })
    }
}

struct Fields<'a> {
    path: &'a Path,
    fields: Map<String, Value>,
}

impl Fields<'_> {
    fn get<T>(&self, field: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| {
                EngineError::field(self.path, field, format!("is {}; expected {expected}", shortened(value)))
            }),
        }
    }

    fn number(&self, field: &str, expected: &str, valid: impl Fn(f32) -> bool) -> Result<Option<f32>> {
        let read = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && valid(*x));
        self.get(field, expected, read)
    }

    fn ids(&self, field: &str) -> Result<Vec<u32>> {
        let read = |value: &Value| match value {
            Value::Array(ids) => ids.iter().map(as_u32).collect(),
            id => as_u32(id).map(|id| vec![id]),
        };
        Ok(self.get(field, "a token id or a list of token ids", read)?.unwrap_or_default())
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

/// A value as it stands in the file, cut so that a message stays one readable line.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 { text } else { text.chars().take(40).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<GenerationConfig> {
        GenerationConfig::from_bytes(json.as_bytes(), Path::new("m/generation_config.json"))
    }

    #[test]
    fn reads_what_qwen3_ships() {
        let config = parse(
            r#"{"bos_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643], "pad_token_id": 151643,
                "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0"}"#,
        );
        let expected = GenerationConfig {
            eos_token_ids: vec![151_645, 151_643],
            bos_token_id: Some(151_643),
            do_sample: Some(true),
            temperature: Some(0.6),
            top_k: Some(20),
            top_p: Some(0.95),
            ..GenerationConfig::default()
        };
        assert_eq!(config.unwrap(), expected);
    }

    #[test]
    fn one_end_token_null_and_absence() {
        let config =
            parse(r#"{"eos_token_id": 2, "top_k": null, "min_p": 0, "repetition_penalty": 1.1}"#).unwrap();
        assert_eq!(config.eos_token_ids, [2]);
        assert_eq!((config.top_k, config.min_p, config.repetition_penalty), (None, Some(0.0), Some(1.1)));
        assert_eq!(parse("{}").unwrap(), GenerationConfig::default());
        assert_eq!(GenerationConfig::from_optional_file(None).unwrap(), GenerationConfig::default());
    }

    #[test]
    fn bad_fields_are_named() {
        for (json, message) in [
            (r#"{"temperature": "hot"}"#, r#"field `temperature` is "hot"; expected a number of at least 0"#),
            (r#"{"temperature": -1}"#, "field `temperature` is -1; expected a number of at least 0"),
            (r#"{"temperature": 1e60}"#, "field `temperature` is 1e+60; expected a number of at least 0"),
            (r#"{"top_p": 0}"#, "field `top_p` is 0; expected a number above 0 and up to 1"),
            (r#"{"top_k": 1.5}"#, "field `top_k` is 1.5; expected a whole number of at least 0"),
            (r#"{"min_p": 2}"#, "field `min_p` is 2; expected a number from 0 to 1"),
            (r#"{"repetition_penalty": 0}"#, "field `repetition_penalty` is 0; expected a number above 0"),
            (r#"{"do_sample": 1}"#, "field `do_sample` is 1; expected true or false"),
            (
                r#"{"eos_token_id": [1, -2]}"#,
                "field `eos_token_id` is [1,-2]; expected a token id or a list of token ids",
            ),
            (
                r#"{"eos_token_id": 4294967296}"#,
                "field `eos_token_id` is 4294967296; expected a token id or a list of token ids",
            ),
            ("[]", "field `(whole file)` must be a JSON object"),
        ] {
            assert_eq!(parse(json).unwrap_err().to_string(), format!("m/generation_config.json: {message}"));
        }
        let cut = parse(r#"{"top_k": 2"#).unwrap_err().to_string();
        assert!(cut.starts_with("m/generation_config.json is not valid JSON (EOF"), "{cut}");
    }
}
