//! How a text is cut into words, by the names that `tokenizer.ggml.pre` has for it.
//!
//! Only names that a test compares with the `tokenizer.json` they stand for; `default` has none and
//! is compared with llama.cpp. `deepseek-r1-qwen` is the name that the converter has for
//! `DeepSeek`'s distillations into Qwen, and llama.cpp (`llama-vocab.cpp`) cuts as `qwen2` for it.

use serde_json::{Value, json};

use crate::text::tokenizer_json::{QWEN2_WORDS, byte_level, split};

/// Llama 3's words: as Qwen2's, but up to three digits.
const LLAMA3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-2's words: contractions, letters, numbers, signs with one leading space each, blanks.
const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The names that are known, for messages.
const KNOWN: &str = "qwen2 (deepseek-r1-qwen), llama-bpe (llama3, llama-v3), smollm, gpt-2 and default";

/// What a name says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Words {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    /// A word that is in the vocabulary is that token, whatever the merges make of it.
    pub(super) ignore_merges: bool,
    /// Whether the beginning token goes before a text where `add_bos_token` is absent.
    pub(super) adds_bos: bool,
}

impl Words {
    /// What the name of `tokenizer.ggml.pre` stands for.
    pub(super) fn named(pre: Option<&str>) -> Result<Self, String> {
        let plain = |pre_tokenizer| Self {
            normalizer: Value::Null,
            pre_tokenizer,
            ignore_merges: false,
            adds_bos: false,
        };
        Ok(match pre {
            Some("qwen2" | "deepseek-r1-qwen") => Self {
                normalizer: json!({"type": "NFC"}),
                ..plain(in_order([split(QWEN2_WORDS), byte_level(false)]))
            },
            Some("llama-bpe" | "llama3" | "llama-v3") => Self {
                ignore_merges: true,
                adds_bos: true,
                ..plain(in_order([split(LLAMA3_WORDS), byte_level(false)]))
            },
            Some("smollm") => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                plain(in_order([digits, split(GPT2_WORDS), byte_level(false)]))
            }
            Some("gpt-2") => plain(in_order([split(GPT2_WORDS), byte_level(false)])),
            Some("default") => plain(llama_cpp_default()),
            Some(other) => {
                return Err(format!(
                    "tokenizer.ggml.pre is {other:?}, and how that cuts a text into words is not known here; known are {KNOWN}"
                ));
            }
            None => {
                return Err(format!(
                    "tokenizer.ggml.pre is absent, so the file does not say how a text is cut into words (files of before \
                     May 2024): convert the model again with a current llama.cpp; known are {KNOWN}"
                ));
            }
        })
    }
}

/// llama.cpp's words for `default`, which are no model's: signs, then GPT-2's words, then numbers,
/// then digits in threes. Writers fall back to it for models that they do not know.
fn llama_cpp_default() -> Value {
    in_order([
        split(r"[\p{P}\$\+<=>\^~\|]+"),
        split(GPT2_WORDS),
        split(r"\p{N}+"),
        split("[0-9][0-9][0-9]"),
        byte_level(false),
    ])
}

fn in_order(steps: impl IntoIterator<Item = Value>) -> Value {
    let steps: Vec<Value> = steps.into_iter().collect();
    json!({"type": "Sequence", "pretokenizers": steps})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_way_to_cut_words_are_equal() {
        for (name, other) in
            [("deepseek-r1-qwen", "qwen2"), ("llama3", "llama-bpe"), ("llama-v3", "llama-bpe")]
        {
            let (name, other) = (Words::named(Some(name)).unwrap(), Words::named(Some(other)).unwrap());
            assert_eq!(name, other);
        }
        assert_ne!(Words::named(Some("qwen2")), Words::named(Some("llama-bpe")));
    }
}
