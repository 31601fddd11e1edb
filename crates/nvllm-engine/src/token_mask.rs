//! Which tokens may come next: masks made from what a sequence has sampled so far.
//!
//! A mask has one bit for each token of the vocabulary, set where the token is allowed: token `t`
//! at bit `t % 32` of word `t / 32`, as in [`TokenMasks`](nvllm_core::TokenMasks). Masks depend on
//! sampled tokens only, so that a preempted sequence goes on under the same ones.

use std::sync::Arc;

use nvllm_core::TokenId;

use crate::{EngineError, Request};

/// A rule for the next token of one sequence.
pub(crate) trait TokenMask: Send {
    /// Clears in `mask` the bits of the tokens that may not follow `output`, all that the sequence
    /// has sampled. An output only grows from one call to the next.
    ///
    /// Errors with the reason if it cannot be told what may follow.
    fn restrict(&mut self, output: &[TokenId], mask: &mut [u32]) -> Result<(), String>;

    /// Whether the output of the last call may end there, if no token is left to follow it.
    fn is_complete(&self) -> bool {
        false
    }
}

/// Several rules, all of which hold.
impl TokenMask for Vec<Box<dyn TokenMask>> {
    fn restrict(&mut self, output: &[TokenId], mask: &mut [u32]) -> Result<(), String> {
        self.iter_mut().try_for_each(|rule| rule.restrict(output, mask))
    }

    fn is_complete(&self) -> bool {
        self.iter().any(|rule| rule.is_complete())
    }
}

/// A mask that allows every token.
pub(crate) fn all_tokens(vocab_size: usize) -> Vec<u32> {
    let mut mask = vec![u32::MAX; vocab_size.div_ceil(32)];
    if let Some(last) = mask.last_mut().filter(|_| !vocab_size.is_multiple_of(32)) {
        *last = (1 << (vocab_size % 32)) - 1;
    }
    mask
}

/// Sets the bit of a token.
pub(crate) fn allow(mask: &mut [u32], token: TokenId) {
    if let Some(word) = mask.get_mut(token.index() / 32) {
        *word |= 1 << (token.index() % 32);
    }
}

/// Clears the bit of a token.
pub(crate) fn bar(mask: &mut [u32], token: TokenId) {
    if let Some(word) = mask.get_mut(token.index() / 32) {
        *word &= !(1 << (token.index() % 32));
    }
}

/// [`Request::allowed_tokens`] and [`Request::bad_words`]. Clones share the lists.
#[derive(Clone)]
pub(crate) struct TokenLists {
    /// Allowed whatever came before.
    always: Arc<[u32]>,
    /// Bad words of two tokens or more, ordered by the token before their last.
    sequences: Arc<[Vec<TokenId>]>,
}

impl TokenLists {
    /// The lists of a request; `None` if it has none.
    ///
    /// Errors if a token is not in the vocabulary, a list is empty where that has no meaning, or no
    /// token at all could be sampled.
    pub(crate) fn new(request: &mut Request, vocab_size: usize) -> crate::Result<Option<Self>> {
        let allowed = request.allowed_tokens.take();
        let bad_words = std::mem::take(&mut request.bad_words);
        if allowed.is_none() && bad_words.is_empty() {
            return Ok(None);
        }
        let refused = |field, problem: String| Err(EngineError::RequestField { field, problem });
        let outside = |token: &&TokenId| token.index() >= vocab_size;
        let range = format!("the model's vocabulary has tokens 0 to {}", vocab_size.saturating_sub(1));
        let mut always = all_tokens(vocab_size);
        if let Some(allowed) = &allowed {
            if allowed.is_empty() {
                return refused("allowed_token_ids", "is empty; name a token, or leave it out".into());
            }
            if let Some(token) = allowed.iter().find(outside) {
                return refused("allowed_token_ids", format!("holds token {token}; {range}"));
            }
            always.fill(0);
            allowed.iter().for_each(|token| allow(&mut always, *token));
        }
        if let Some(at) = bad_words.iter().position(Vec::is_empty) {
            return refused("bad_words", format!("has no tokens in entry {at}; leave that entry out"));
        }
        if let Some(token) = bad_words.iter().flatten().find(outside) {
            return refused("bad_words", format!("holds token {token}; {range}"));
        }
        let (words, mut sequences): (Vec<_>, Vec<_>) =
            bad_words.into_iter().partition(|word| word.len() == 1);
        sequences.sort_by_key(|word| before_last(word));
        words.iter().flatten().for_each(|token| bar(&mut always, *token));
        let mut first = always.clone();
        if request.sampling.min_tokens > 0 {
            request.sampling.stop_tokens.iter().for_each(|token| bar(&mut first, *token));
        }
        if first.iter().all(|word| *word == 0) {
            let (field, what) = match allowed {
                Some(_) => ("allowed_token_ids", "of its tokens"),
                None => ("bad_words", "token of the vocabulary"),
            };
            let problem = format!(
                "leaves no token to begin with: each {what} is in `bad_words`, or is a stop token before \
                 `min_tokens`; allow one more"
            );
            return refused(field, problem);
        }
        Ok(Some(Self { always: always.into(), sequences: sequences.into() }))
    }
}

impl TokenMask for TokenLists {
    fn restrict(&mut self, output: &[TokenId], mask: &mut [u32]) -> Result<(), String> {
        mask.iter_mut().zip(&*self.always).for_each(|(word, always)| *word &= always);
        let at = output.last().copied();
        let first = self.sequences.partition_point(|word| before_last(word) < at);
        for word in self.sequences[first..].iter().take_while(|word| before_last(word) == at) {
            if let Some((last, before)) = word.split_last()
                && output.ends_with(before)
            {
                bar(mask, *last);
            }
        }
        Ok(())
    }
}

/// The token before the last.
fn before_last(word: &[TokenId]) -> Option<TokenId> {
    word.iter().rev().nth(1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB_SIZE: usize = 70;

    fn ids(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().copied().map(TokenId).collect()
    }

    fn lists(allowed: Option<&[u32]>, bad_words: &[&[u32]]) -> crate::Result<Option<TokenLists>> {
        let mut request = Request {
            allowed_tokens: allowed.map(ids),
            bad_words: bad_words.iter().map(|word| ids(word)).collect(),
            ..Request::default()
        };
        TokenLists::new(&mut request, VOCAB_SIZE)
    }

    /// The tokens that may follow `output`.
    fn after(lists: &mut TokenLists, output: &[u32]) -> Vec<u32> {
        let mut mask = all_tokens(VOCAB_SIZE);
        lists.restrict(&ids(output), &mut mask).unwrap();
        (0..96).filter(|t| mask[t / 32] >> (t % 32) & 1 == 1).map(|t| t as u32).collect()
    }

    #[test]
    fn every_token_of_the_vocabulary_is_allowed_and_none_beyond() {
        for vocab_size in [1, 31, 32, 33, 64, 70] {
            let mask = all_tokens(vocab_size);
            assert_eq!(mask.iter().map(|word| word.count_ones() as usize).sum::<usize>(), vocab_size);
            assert_eq!(mask.len(), vocab_size.div_ceil(32));
        }
        assert!(lists(None, &[]).unwrap().is_none());
    }

    #[test]
    fn a_bad_word_is_barred_where_the_output_ends_with_what_is_before_its_last_token() {
        let mut lists = lists(Some(&[1, 2, 3, 69]), &[&[3], &[1, 2], &[2, 2, 69]]).unwrap().unwrap();
        for (output, allowed) in [
            (&[][..], &[1, 2, 69][..]),
            (&[1], &[1, 69]),
            (&[1, 1], &[1, 69]),
            (&[1, 69], &[1, 2, 69]),
            (&[2], &[1, 2, 69]),
            (&[2, 2], &[1, 2]),
            (&[1, 2, 2], &[1, 2]),
            (&[2, 2, 1], &[1, 69]),
        ] {
            assert_eq!(after(&mut lists, output), allowed, "after {output:?}");
        }
    }
}
