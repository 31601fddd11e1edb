//! A checkpoint's defaults for sampling: `generation_config.json`.
//!
//! The file is advice. Values by which other engines say "off" mean off here too; a value that
//! cannot be used, and a field that changes the output elsewhere and not here, are remarks for
//! whoever samples. A model that is only looked at, or whose caller says otherwise, opens whatever
//! the file says.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{EngineError, Result};

/// What `generation_config.json` recommends. A field that the file lacks is `None` (or empty): the
/// caller's own default applies, or `config.json`'s for the end-of-text ids.
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
    /// Divides (or multiplies, below zero) the logits of tokens that have occurred; above 0, 1
    /// changes nothing.
    pub repetition_penalty: Option<f32>,
    /// New tokens at most.
    pub max_new_tokens: Option<usize>,
    /// Texts that end the output.
    pub stop_strings: Vec<String>,
    /// What of the file is not followed.
    pub remarks: Vec<Remark>,
}

/// A field of `generation_config.json` that is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The field; `None`: the whole file.
    pub field: Option<String>,
    /// The file, the field and why, in one line.
    pub message: String,
}

/// Fields that change what is generated and that nothing here follows, with the values that change
/// nothing (`null`, `false` and empty lists never do). Not among them: `max_length`, which bounds
/// prompt and output together as a context does.
const IGNORED: [(&str, &[f64]); 27] = [
    ("bad_words_ids", &[]),
    ("begin_suppress_tokens", &[]),
    ("constraints", &[]),
    ("diversity_penalty", &[0.0]),
    ("dola_layers", &[]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("exponential_decay_length_penalty", &[]),
    ("force_words_ids", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("guidance_scale", &[1.0]),
    ("max_time", &[]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("num_beams", &[0.0, 1.0]),
    ("penalty_alpha", &[0.0]),
    ("remove_invalid_values", &[]),
    ("sequence_bias", &[]),
    ("suppress_tokens", &[]),
    ("token_healing", &[]),
    ("top_h", &[0.0, 1.0]),
    ("typical_p", &[0.0, 1.0]),
    ("watermarking_config", &[]),
];

impl GenerationConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`EngineError::ReadFile`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|cause| EngineError::ReadFile { path: path.to_path_buf(), cause })?;
        Ok(Self::from_bytes(&bytes, path))
    }

    /// Reads the file if the model has one; without it nothing is recommended.
    ///
    /// # Errors
    /// Those of [`from_file`](Self::from_file).
    pub fn from_optional_file(path: Option<&Path>) -> Result<Self> {
        path.map_or_else(|| Ok(Self::default()), Self::from_file)
    }

    /// Parses the content of a file; `path` is for remarks. `null` counts as absent, and so does
    /// what cannot be used.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Self {
        let whole = |problem: String| Self {
            remarks: vec![Remark { field: None, message: format!("{}: {problem}", path.display()) }],
            ..Self::default()
        };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Self::read(&mut Fields { path, map: &fields, remarks: Vec::new() }),
            Ok(_) => whole("it is not a JSON object; its defaults are not used".into()),
            Err(e) => whole(format!("it is not valid JSON ({e}); its defaults are not used")),
        }
    }

    fn read(fields: &mut Fields<'_>) -> Self {
        let mut config = Self {
            eos_token_ids: fields.ids("eos_token_id"),
            bos_token_id: fields.ids("bos_token_id").first().copied(),
            do_sample: fields.get("do_sample", "true or false", Value::as_bool),
            temperature: fields.number("temperature", "a number of at least 0", &[], |x| x >= 0.0),
            top_k: fields.get("top_k", "a whole number of at least 0", as_top_k),
            // vLLM's and llama.cpp's ways to say that nothing is cut off.
            top_p: fields
                .number("top_p", "a number above 0 and up to 1", &[-1.0, 0.0], |x| x > 0.0 && x <= 1.0),
            min_p: fields.number("min_p", "a number from 0 to 1", &[-1.0], |x| (0.0..=1.0).contains(&x)),
            repetition_penalty: fields
                .number("repetition_penalty", "a number above 0", &[-1.0, 0.0], |x| x > 0.0),
            max_new_tokens: fields.count("max_new_tokens"),
            stop_strings: fields.texts("stop_strings"),
            remarks: Vec::new(),
        };
        for (field, neutral) in IGNORED {
            fields.remark_if_set(field, neutral);
        }
        config.remarks = std::mem::take(&mut fields.remarks);
        config
    }

    /// Leaves out end-of-text tokens that a vocabulary of `vocab_size` has not, with a remark for
    /// each.
    pub(crate) fn within_vocabulary(mut self, vocab_size: usize, path: &Path) -> Self {
        let (known, unknown): (Vec<u32>, Vec<u32>) =
            self.eos_token_ids.iter().partition(|&&id| (id as usize) < vocab_size);
        self.eos_token_ids = known;
        self.remarks.extend(unknown.into_iter().map(|id| {
            let problem = format!("is {id}, and the vocabulary has {vocab_size} tokens; it is left out");
            remark(path, "eos_token_id", &problem)
        }));
        self
    }
}

fn remark(path: &Path, field: &str, problem: &str) -> Remark {
    let message = format!("{}: `{field}` {problem}", path.display());
    Remark { field: Some(field.into()), message }
}

struct Fields<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
    remarks: Vec<Remark>,
}

impl Fields<'_> {
    /// The field's value as `read` takes it; one that it does not take is remarked on and counts as
    /// absent.
    fn get<T>(&mut self, field: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.map.get(field).filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            let problem = format!("is {}, not {expected}; it is not used", shortened(value));
            self.remarks.push(remark(self.path, field, &problem));
        }
        read
    }

    /// A number; those of `off` count as absent.
    fn number(
        &mut self,
        field: &str,
        expected: &str,
        off: &[f64],
        valid: impl Fn(f32) -> bool,
    ) -> Option<f32> {
        if self.map.get(field).and_then(Value::as_f64).is_some_and(|x| off.contains(&x)) {
            return None;
        }
        let read = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && valid(*x));
        self.get(field, expected, read)
    }

    /// A number of tokens; -1 and 0 mean that none is set.
    fn count(&mut self, field: &str) -> Option<usize> {
        let read = |value: &Value| match as_count(value)? {
            -1 => Some(0),
            n => usize::try_from(n).ok(),
        };
        self.get(field, "a whole number above 0", read).filter(|&n| n > 0)
    }

    /// A token id or a list; -1 means none.
    fn ids(&mut self, field: &str) -> Vec<u32> {
        let id = |value: &Value| match as_count(value)? {
            -1 => Some(None),
            id => u32::try_from(id).ok().map(Some),
        };
        let read = |value: &Value| match value {
            Value::Array(ids) => ids.iter().map(id).collect::<Option<Vec<_>>>(),
            one => id(one).map(|id| vec![id]),
        };
        let ids = self.get(field, "a token id or a list of token ids", read).unwrap_or_default();
        ids.into_iter().flatten().collect()
    }

    /// A text or a list of them; empty ones would end every output at once.
    fn texts(&mut self, field: &str) -> Vec<String> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let read = |value: &Value| match value {
            Value::Array(texts) => texts.iter().map(text).collect(),
            one => text(one).map(|text| vec![text]),
        };
        self.get(field, "a text or a list of texts", read).unwrap_or_default()
    }

    /// Remarks on a field that nothing follows, if its value would change something.
    fn remark_if_set(&mut self, field: &str, neutral: &[f64]) {
        let Some(value) = self.map.get(field) else { return };
        let off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(n) => n.as_f64().is_some_and(|x| neutral.contains(&x)),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(_) | Value::Bool(true) => false,
        };
        if !off {
            let problem = format!("is {}, and is not supported; it is not used", shortened(value));
            self.remarks.push(remark(self.path, field, &problem));
        }
    }
}

/// A whole number, as JSON has it or as a float without a fraction.
fn as_count(value: &Value) -> Option<i64> {
    let whole = |x: f64| (x.fract() == 0.0 && x.abs() < 1e15).then_some(x as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole))
}

/// -1 is vLLM's "all", as 0 is transformers'.
fn as_top_k(value: &Value) -> Option<u32> {
    match as_count(value)? {
        -1 => Some(0),
        k => u32::try_from(k).ok(),
    }
}

/// A value as it stands in the file, cut so that a message stays one readable line.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 { text } else { text.chars().take(40).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> GenerationConfig {
        GenerationConfig::from_bytes(json.as_bytes(), Path::new("m/generation_config.json"))
    }

    fn messages(config: &GenerationConfig) -> Vec<&str> {
        let short = |remark| {
            let Remark { message, .. }: &Remark = remark;
            message.strip_prefix("m/generation_config.json: ").unwrap()
        };
        config.remarks.iter().map(short).collect()
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
        assert_eq!(config, expected);
    }

    #[test]
    fn one_end_token_null_and_absence() {
        let config = parse(r#"{"eos_token_id": 2, "top_k": null, "min_p": 0, "repetition_penalty": 1.1}"#);
        assert_eq!(config.eos_token_ids, [2]);
        assert_eq!((config.top_k, config.min_p, config.repetition_penalty), (None, Some(0.0), Some(1.1)));
        assert_eq!(parse("{}"), GenerationConfig::default());
        assert_eq!(GenerationConfig::from_optional_file(None).unwrap(), GenerationConfig::default());
    }

    #[test]
    fn other_ways_to_say_off_mean_off() {
        let config = parse(
            r#"{"top_k": -1, "top_p": -1, "min_p": -1, "repetition_penalty": 0, "eos_token_id": [-1, 7], "bos_token_id": -1,
                "max_new_tokens": -1, "num_beams": 1, "no_repeat_ngram_size": 0, "suppress_tokens": null, "typical_p": 1.0,
                "bad_words_ids": [], "remove_invalid_values": false, "max_length": 4096, "length_penalty": 1.0}"#,
        );
        let expected =
            GenerationConfig { top_k: Some(0), eos_token_ids: vec![7], ..GenerationConfig::default() };
        assert_eq!(config, expected);
        assert_eq!(parse(r#"{"top_k": 50.0}"#).top_k, Some(50));
        assert_eq!(parse(r#"{"top_p": 0}"#), GenerationConfig::default());
    }

    #[test]
    fn what_is_followed_beside_sampling() {
        let config = parse(r#"{"max_new_tokens": 2048, "stop_strings": ["\n\nUser:", "END"]}"#);
        assert_eq!((config.max_new_tokens, config.stop_strings.len()), (Some(2048), 2));
        assert_eq!(parse(r#"{"stop_strings": "END"}"#).stop_strings, ["END"]);
        assert!(config.remarks.is_empty());
    }

    #[test]
    fn bad_fields_are_remarks_and_the_others_hold() {
        for (json, message) in [
            (
                r#"{"temperature": "hot"}"#,
                r#"`temperature` is "hot", not a number of at least 0; it is not used"#,
            ),
            (r#"{"temperature": -1}"#, "`temperature` is -1, not a number of at least 0; it is not used"),
            (
                r#"{"temperature": 1e60}"#,
                "`temperature` is 1e+60, not a number of at least 0; it is not used",
            ),
            (r#"{"top_p": 2}"#, "`top_p` is 2, not a number above 0 and up to 1; it is not used"),
            (r#"{"top_k": 1.5}"#, "`top_k` is 1.5, not a whole number of at least 0; it is not used"),
            (r#"{"top_k": -2}"#, "`top_k` is -2, not a whole number of at least 0; it is not used"),
            (r#"{"min_p": 2}"#, "`min_p` is 2, not a number from 0 to 1; it is not used"),
            (
                r#"{"repetition_penalty": -3}"#,
                "`repetition_penalty` is -3, not a number above 0; it is not used",
            ),
            (r#"{"do_sample": 1}"#, "`do_sample` is 1, not true or false; it is not used"),
            (
                r#"{"eos_token_id": [1, -2]}"#,
                "`eos_token_id` is [1,-2], not a token id or a list of token ids; it is not used",
            ),
            (
                r#"{"stop_strings": ["a", ""]}"#,
                r#"`stop_strings` is ["a",""], not a text or a list of texts; it is not used"#,
            ),
        ] {
            let config = parse(&json.replacen('{', r#"{"bos_token_id": 3, "#, 1));
            assert_eq!(messages(&config), [message]);
            let field = message.split('`').nth(1).map(str::to_owned);
            assert_eq!(config.remarks[0].field, field);
            let expected = GenerationConfig {
                bos_token_id: Some(3),
                remarks: config.remarks.clone(),
                ..GenerationConfig::default()
            };
            assert_eq!(config, expected, "nothing else is lost");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_one_remark() {
        for (text, words) in
            [("[]", "it is not a JSON object"), (r#"{"top_k": 2"#, "it is not valid JSON (EOF")]
        {
            let config = parse(text);
            assert_eq!(config.remarks.len(), 1);
            assert!(messages(&config)[0].starts_with(words) && config.remarks[0].field.is_none());
        }
    }

    #[test]
    fn fields_that_change_the_output_elsewhere_are_named() {
        for (field, value) in [
            ("suppress_tokens", "[1, 2]"),
            ("bad_words_ids", "[[5, 6]]"),
            ("no_repeat_ngram_size", "3"),
            ("num_beams", "4"),
            ("typical_p", "0.9"),
            ("guidance_scale", "1.5"),
            ("min_new_tokens", "5"),
            ("remove_invalid_values", "true"),
            ("watermarking_config", r#"{"bias": 2.5}"#),
        ] {
            let config = parse(&format!(r#"{{"{field}": {value}}}"#));
            let expected = format!("`{field}` is ");
            assert!(messages(&config)[0].starts_with(&expected), "{config:?}");
            assert!(messages(&config)[0].ends_with("and is not supported; it is not used"), "{config:?}");
        }
    }

    #[test]
    fn end_tokens_outside_the_vocabulary_are_left_out() {
        let config = parse(r#"{"eos_token_id": [2, 999999]}"#)
            .within_vocabulary(320, Path::new("m/generation_config.json"));
        assert_eq!(config.eos_token_ids, [2]);
        assert_eq!(
            messages(&config),
            ["`eos_token_id` is 999999, and the vocabulary has 320 tokens; it is left out"]
        );
    }
}
