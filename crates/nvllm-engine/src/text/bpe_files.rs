//! Tokenizers that come as `vocab.json` and `merges.txt`, without a `tokenizer.json`: what
//! transformers calls a slow tokenizer.
//!
//! These two files say nothing about how a text is cut into words, which is a function of the
//! tokenizer's class. For the classes known here the parts of the `tokenizer.json` that
//! transformers would convert them into are put together and loaded as that file is. Other classes
//! are refused by name: cut otherwise, a text has other tokens, and nothing shows it.
//!
//! Source: `Qwen2Converter` in transformers' `convert_slow_tokenizer.py`, and `PreTrainedTokenizer`
//! for the numbers of added tokens.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Tokenizer;
use super::tokenizer_json::{QWEN2_WORDS, added, byte_level, split, unusable};
use crate::{EngineError, Result};

/// The files of a byte-level BPE tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpeFiles {
    /// `vocab.json`: ids by piece.
    pub vocab: PathBuf,
    /// `merges.txt`: a line for each merge, first ones first.
    pub merges: PathBuf,
    /// `added_tokens.json`: ids by text, of older checkpoints.
    pub added_tokens: Option<PathBuf>,
    /// `special_tokens_map.json`: what `tokenizer_config.json` leaves out.
    pub special_tokens_map: Option<PathBuf>,
}

/// The classes whose words are known, and the models that have them where no file names a class.
const CLASSES: [&str; 2] = ["Qwen2Tokenizer", "Qwen2TokenizerFast"];
const MODEL_TYPES: [&str; 4] = ["qwen2", "qwen2_moe", "qwen3", "qwen3_moe"];

/// The token that Qwen2's class takes as end, unknown and padding token where no file names one.
const QWEN2_DEFAULT: &str = "<|endoftext|>";

/// Names of special tokens in the order in which missing ones are numbered.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A JSON object and where it was read.
type Object<'a> = (Map<String, Value>, &'a Path);

impl BpeFiles {
    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let optional = [&self.added_tokens, &self.special_tokens_map].into_iter().flatten();
        [&self.vocab, &self.merges].into_iter().chain(optional).map(PathBuf::as_path)
    }

    /// The tokenizer of these files, `tokenizer_config.json` and the model's `model_type`. `Err`
    /// with the class, if that is not known here.
    ///
    /// # Errors
    /// [`EngineError::ReadFile`], [`EngineError::Json`], and [`EngineError::Tokenizer`] for content
    /// that makes no tokenizer.
    pub fn load(
        &self,
        tokenizer_config: Option<&Path>,
        model_type: Option<&str>,
    ) -> Result<Result<Tokenizer, String>> {
        let config = tokenizer_config.map(object).transpose()?.unwrap_or_default();
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        let known = class.map_or_else(
            || model_type.is_some_and(|kind| MODEL_TYPES.contains(&kind)),
            |class| CLASSES.contains(&class),
        );
        if !known {
            let model = || format!("the tokenizer of model type {}", model_type.unwrap_or("none"));
            return Ok(Err(class.map_or_else(model, String::from)));
        }
        let vocab = object(&self.vocab)?;
        let merges = read(&self.merges)?;
        let added = self.added_tokens.as_deref().map(object).transpose()?.unwrap_or_default();
        let specials = self.special_tokens_map.as_deref().map(object).transpose()?.unwrap_or_default();
        let names = Names { config: &config, specials: &specials };
        let tokens = added_tokens(&(vocab.clone(), &self.vocab), &names, &added)?;
        let json = json!({
            "version": "1.0",
            "added_tokens": tokens,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                split(QWEN2_WORDS),
                byte_level(config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false)),
            ]},
            "post_processor": byte_level(false),
            "decoder": byte_level(false),
            "model": {"type": "BPE", "vocab": vocab, "merges": pairs(&merges, &self.merges)?},
        });
        Tokenizer::from_bytes(json.to_string().as_bytes(), &self.vocab).map(Ok)
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes =
        std::fs::read(path).map_err(|cause| EngineError::ReadFile { path: path.to_path_buf(), cause })?;
    String::from_utf8(bytes).map_err(|_| unusable(path, "is not UTF-8".into()))
}

fn object(path: &Path) -> Result<Map<String, Value>> {
    let json = |cause| EngineError::Json { path: path.to_path_buf(), cause };
    match serde_json::from_str(&read(path)?).map_err(json)? {
        Value::Object(map) => Ok(map),
        _ => Err(unusable(path, "is not a JSON object".into())),
    }
}

/// The merges of `merges.txt`: a version line may come first, empty lines count for nothing.
fn pairs(text: &str, path: &Path) -> Result<Vec<[String; 2]>> {
    let mut pairs = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || at == 0 && line.starts_with("#version:") {
            continue;
        }
        let mut pieces = line.split_whitespace();
        let (Some(a), Some(b), None) = (pieces.next(), pieces.next(), pieces.next()) else {
            return Err(unusable(
                path,
                format!("line {} is not two pieces and a space between them", at + 1),
            ));
        };
        pairs.push([a.to_owned(), b.to_owned()]);
    }
    Ok(pairs)
}

/// Where special tokens are named.
struct Names<'a> {
    config: &'a Map<String, Value>,
    specials: &'a Map<String, Value>,
}

impl Names<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.config.get(field).or_else(|| self.specials.get(field))
    }

    /// The texts of all special tokens, in the order in which new ones are numbered.
    fn all(&self) -> Vec<String> {
        let mut names = Vec::new();
        for field in NAMED {
            let default = ["eos_token", "unk_token", "pad_token"].contains(&field).then_some(QWEN2_DEFAULT);
            match self.get(field) {
                Some(value) => names.extend(text(value)),
                None => names.extend(default.map(String::from)),
            }
        }
        for field in ["additional_special_tokens", "extra_special_tokens"] {
            match self.get(field) {
                Some(Value::Array(list)) => names.extend(list.iter().filter_map(text)),
                Some(Value::Object(map)) => names.extend(map.values().filter_map(text)),
                _ => {}
            }
        }
        names
    }
}

/// A token's text: alone, or as `content` of what is known of it.
fn text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(String::from)
}

/// The added tokens of a `tokenizer.json`, in the order of their ids: those of
/// `added_tokens_decoder`, or of `added_tokens.json` where the former is absent, and special tokens
/// that neither has, with the ids of the vocabulary or the next ones.
fn added_tokens(
    (vocab, path): &Object<'_>,
    names: &Names<'_>,
    legacy: &Map<String, Value>,
) -> Result<Vec<Value>> {
    let specials = names.all();
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut tokens: BTreeMap<u32, Value> = BTreeMap::new();
    if let Some(Value::Object(decoder)) = names.config.get("added_tokens_decoder") {
        for (id, token) in decoder {
            let (Ok(id), Some(content)) = (id.parse(), text(token)) else {
                let problem =
                    format!("`added_tokens_decoder` of tokenizer_config.json has no token at {id:?}");
                return Err(unusable(path, problem));
            };
            tokens.insert(id, added(id, &content, token));
        }
    } else {
        for (content, value) in legacy {
            let Some(id) = id(value) else {
                return Err(unusable(path, format!("added_tokens.json has no id for {content:?}")));
            };
            tokens.insert(id, added(id, content, &json!({"special": specials.contains(content)})));
        }
    }
    let mut known: HashMap<String, u32> =
        tokens.iter().filter_map(|(id, token)| Some((text(token)?, *id))).collect();
    let highest = vocab.values().filter_map(id).chain(tokens.keys().copied()).max();
    let mut next = highest.map_or(0, |id| id.saturating_add(1));
    for content in specials {
        if known.contains_key(&content) {
            continue;
        }
        let at = vocab.get(&content).and_then(id).unwrap_or(next);
        next += u32::from(at == next);
        tokens.insert(at, added(at, &content, &json!({"special": true})));
        known.insert(content, at);
    }
    Ok(tokens.into_values().collect())
}
