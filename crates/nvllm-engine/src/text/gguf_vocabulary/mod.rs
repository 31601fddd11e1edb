//! The tokenizer that a GGUF file's metadata describes.
//!
//! A GGUF has no `tokenizer.json`: it has the pieces, their types, and merges or scores, under the
//! names that llama.cpp gave them. The parts of the `tokenizer.json` that they were made from are
//! put together again ([`parts`]), so that one tokenizer has the same ids in both forms. Where the
//! two could differ (below) `tokenizer.json` is followed and not llama.cpp, whose tokenizers are
//! its own: it normalises nothing, for instance, where Qwen's is NFC.
//!
//! * `gpt2` is byte-level BPE: pieces and merges in GPT-2's letters for bytes. How a text is cut
//!   into words is only named, in `tokenizer.ggml.pre` ([`words`]). Unknown names are refused: cut
//!   otherwise, a text has other tokens, and nothing shows it.
//! * `llama` is `SentencePiece` BPE: pieces with scores, and bytes for what no piece has. The
//!   merges follow from the pieces ([`sentence_piece`]).
//!
//! What the metadata cannot say: whether an added token takes the blanks around it (Phi-3's do).
//! Writers mark added tokens that look special (`<|fim_prefix|>`) as control whatever they were,
//! so those are special here and not where `tokenizer.json` says otherwise.
//!
//! Source: `src/llama-vocab.cpp` of llama.cpp and `conversion/base.py` beside it, which writes the
//! metadata; `gguf/vocab.py` of the Python package.

mod byte_bpe;
mod kind;
mod metadata;
mod parts;
mod pieces;
mod sentence_piece;
mod template;
mod words;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

pub use self::metadata::GgufVocabulary;
use self::parts::Parts;
use self::pieces::Pieces;
use super::Tokenizer;
use super::tokenizer_json::unusable;
use crate::Result;

impl GgufVocabulary {
    /// The tokenizer; `path` is the file that it comes from, for messages.
    ///
    /// # Errors
    /// [`crate::EngineError::Tokenizer`] for a kind or a way of cutting words that is not known,
    /// and for metadata that contradicts itself.
    pub fn tokenizer(&self, path: &Path) -> Result<Tokenizer> {
        let parts = self.parts().map_err(|problem| unusable(path, problem))?;
        Tokenizer::from_library(|| parts.build(), path)
    }

    /// The `tokenizer.json` that stands for it. Errors as [`tokenizer`](Self::tokenizer) does.
    pub fn tokenizer_json(&self, path: &Path) -> Result<Value> {
        self.parts().map(Parts::into_json).map_err(|problem| unusable(path, problem))
    }

    fn parts(&self) -> Result<Parts<'_>, String> {
        self.check_lengths()?;
        let pieces = Pieces::new(self);
        match self.model.as_str() {
            "gpt2" => byte_bpe::parts(self, pieces),
            "llama" => sentence_piece::parts(self, pieces),
            other => {
                Err(format!("tokenizer.ggml.model is {other:?}, which is not supported; gpt2 and llama are"))
            }
        }
    }
}
