//! Prompts: token ids where whoever answers tells them, else text.

use super::answer::Prompt;
use super::answerer::Answerer;
use crate::measure::prompt::spread;
use crate::{Result, held_out};

/// Bytes of text that are asked about at once.
const PIECE: usize = 1 << 18;
/// Bytes of English text to a token, about, where they are not told.
const BYTES_PER_TOKEN: usize = 4;

/// The held-out text.
pub(super) struct Texts {
    text: String,
    /// Its beginning as tokens; empty if they are not told.
    ids: Vec<u32>,
}

impl Texts {
    pub(super) async fn new(answerer: &Answerer) -> Result<Self> {
        let text: String = held_out::documents()?.join("\n").chars().filter(char::is_ascii).collect();
        let piece = &text[..PIECE.min(text.len())];
        let ids = answerer.tokenize(piece).await.unwrap_or_default();
        Ok(Self { text, ids })
    }

    /// A prompt of `len` tokens; `stream` tells prompts apart.
    pub(super) fn prompt(&self, stream: usize, len: usize) -> Prompt {
        if self.ids.is_empty() {
            let len = len * BYTES_PER_TOKEN;
            let room = self.text.len().saturating_sub(len).max(1);
            let first = spread(stream, room);
            return Prompt::Text(self.text[first..self.text.len().min(first + len)].to_owned());
        }
        // A long prompt goes around the text more than once.
        let first = spread(stream, self.ids.len());
        Prompt::Tokens(self.ids.iter().cycle().skip(first).take(len).copied().collect())
    }
}
