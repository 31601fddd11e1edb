//! Prompts for measurements: the same for every engine, on every machine.

use std::collections::HashMap;

use nvllm_core::TokenId;
use nvllm_core::sampling::philox4x32;
use nvllm_engine::Model;
use nvllm_engine::text::{EncodeOptions, SpecialText};

use crate::{Result, held_out};

/// A place below `room` for each stream, far from its neighbours'.
pub(crate) fn spread(stream: usize, room: usize) -> usize {
    // A prime.
    stream * 7919 % room
}

/// Numbers from 0 to 1, drawn evenly.
pub(crate) fn draws(seed: u64) -> impl Iterator<Item = f64> {
    (0_u32..).flat_map(move |at| {
        let words = philox4x32(seed, [at, 0, 0, 0]);
        words.map(|word| f64::from(word) / (f64::from(u32::MAX) + 1.0))
    })
}

/// Spans of the held-out text where the model has a tokenizer, drawn ids where it has none.
///
/// A span begins and ends between words, so that an engine that takes text only gets the same ids
/// from it.
pub(crate) struct Prompts {
    vocab_size: usize,
    ids: Vec<u32>,
    /// Whether a word begins with the id at this place.
    begins: Vec<bool>,
}

impl Prompts {
    pub(crate) fn new(model: &Model) -> Result<Self> {
        let vocab_size = model.spec.vocab_size;
        let Ok(tokenizer) = model.tokenizer() else {
            return Ok(Self { vocab_size, ids: Vec::new(), begins: Vec::new() });
        };
        let encode = EncodeOptions { add_special_tokens: false, special_text: SpecialText::Literal };
        let ids = tokenizer.encode(&held_out::documents()?.join("\n"), encode)?;
        let mut known = HashMap::new();
        let mut begins = |&id: &u32| -> bool {
            *known.entry(id).or_insert_with(|| tokenizer.decode(&[id], false).starts_with(' '))
        };
        let begins = ids.iter().map(&mut begins).collect();
        Ok(Self { vocab_size, ids, begins })
    }

    /// `len` ids; `stream` tells prompts apart.
    pub(crate) fn get(&self, stream: usize, len: usize) -> Vec<TokenId> {
        match self.span(stream, len) {
            Some(ids) => ids.iter().map(|&id| TokenId(id)).collect(),
            None => drawn(stream as u64, len, self.vocab_size),
        }
    }

    /// A span of the text; `None` if the text is not long enough.
    fn span(&self, stream: usize, len: usize) -> Option<&[u32]> {
        let room = self.ids.len().checked_sub(len + 1)?;
        if room == 0 {
            return None;
        }
        let first = spread(stream, room);
        let good = |start: &usize| self.begins[*start] && self.begins[start + len];
        let start = (first..room).chain(0..first).find(good)?;
        Some(&self.ids[start..start + len])
    }
}

/// Ids that look like none in particular.
fn drawn(stream: u64, len: usize, vocab_size: usize) -> Vec<TokenId> {
    let draw = |i: usize| philox4x32(stream, [i as u32, 0, 0, 0])[0] as usize % vocab_size;
    (0..len).map(|i| TokenId(draw(i) as u32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_prompts_differ_by_stream_and_stay_in_the_vocabulary() {
        let none = Prompts { vocab_size: 100, ids: Vec::new(), begins: Vec::new() };
        assert_eq!(none.get(0, 8), none.get(0, 8));
        assert_ne!(none.get(0, 8), none.get(1, 8));
        assert!(none.get(3, 1000).iter().all(|token| token.index() < 100));
    }

    #[test]
    fn spans_begin_and_end_between_words() {
        let ids: Vec<u32> = (0..100).collect();
        let begins = ids.iter().map(|id| id % 3 == 0).collect();
        let text = Prompts { vocab_size: 100, ids, begins };
        for stream in 0..50 {
            let span = text.get(stream, 9);
            assert!(span[0].0.is_multiple_of(3) && span.len() == 9 && span[8].0 == span[0].0 + 8, "{span:?}");
        }
        assert_eq!(text.get(0, 100).len(), 100, "longer than the text: drawn");
    }
}
