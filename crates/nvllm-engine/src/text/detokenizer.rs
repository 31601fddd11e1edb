//! Token ids to text, one id at a time.

use std::sync::Arc;

use super::decoder::Stream;
use super::tokenizer::Tokenizer;

/// Whether a decoded text stands alone or goes on from a text that the reader already has.
///
/// It matters for `SentencePiece` tokenizers, whose pieces carry their leading space. What an
/// engine generates continues its prompt, so its first space stays, in a chat too: answers of Llama
/// 2 begin with one, as in vLLM, which decodes them behind the prompt. Ids that stand alone begin a
/// text, as in `decode` of transformers: their first space goes. Byte-level tokenizers do not tell
/// the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextStart {
    /// The text begins with the first id, as in [`Tokenizer::decode`].
    #[default]
    Beginning,
    /// The text continues another.
    Continuation,
}

/// Turns a growing list of token ids into a growing text.
///
/// The pieces that [`push`](Self::push) and [`finish`](Self::finish) append, joined, are exactly
/// what [`Tokenizer::decode`] gives for all ids at once, and no piece ends inside a code point:
/// what a later token may still change is held back. U+FFFD stands for bytes that cannot become a
/// code point any more, and at the end for those that did not. Ids outside the vocabulary (the
/// padding rows of a model's head) contribute nothing.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    stream: Stream,
}

impl Detokenizer {
    /// Starts a text. With `skip_special_tokens`, tokens marked special in `tokenizer.json`
    /// (`<|im_end|>`, but not Qwen3's `<think>`) are left out.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool, start: TextStart) -> Self {
        let stream = Stream::new(tokenizer.scheme(), start == TextStart::Beginning);
        Self { tokenizer, skip_special_tokens, stream }
    }

    /// Adds a token; appends to `out` whatever text is now settled, possibly nothing.
    pub fn push(&mut self, id: u32, out: &mut String) {
        if let Some(piece) = self.tokenizer.visible_piece(id, self.skip_special_tokens) {
            self.stream.push(self.tokenizer.scheme(), &piece, out);
        }
    }

    /// Ends the text; appends what was still held back.
    pub fn finish(mut self, out: &mut String) {
        self.stream.finish(self.tokenizer.scheme(), out);
    }
}
