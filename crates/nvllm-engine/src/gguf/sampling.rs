//! How a model's authors sample it, as its metadata say.

use nvllm_gguf::Metadata;
use serde_json::{Map, Value};

use crate::Result;

/// Keys under `general.sampling.`, which converters write from generation_config.json, with its
/// fields. Others (Mirostat, XTC) are llama.cpp's own.
const FIELDS: [(&str, &str); 5] = [
    ("temp", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("penalty_repeat", "repetition_penalty"),
];

/// The `generation_config.json` that the metadata stand for; `ends` are the end tokens.
pub(super) fn generation_config(metadata: &Metadata, ends: &[u32]) -> Result<Value> {
    let mut config = Map::new();
    for (key, field) in FIELDS {
        if let Some(value) = metadata.f64_opt(&format!("general.sampling.{key}"))? {
            config.insert(field.into(), number(value));
        }
    }
    if !config.is_empty() {
        // Without it transformers takes the likeliest token, whatever the other fields say.
        config.insert("do_sample".into(), true.into());
    }
    config.insert("eos_token_id".into(), ends.into());
    Ok(config.into())
}

/// A number as it was written: 0.95, of which the file has the nearest f32; whole ones as such.
fn number(value: f64) -> Value {
    let shortest = (value as f32).to_string();
    shortest.parse::<i64>().map_or_else(|_| shortest.parse::<f64>().unwrap_or(value).into(), Value::from)
}
