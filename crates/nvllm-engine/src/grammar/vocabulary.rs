//! A model's vocabulary as the library takes it.

use std::sync::Arc;

use llguidance::toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenId as Id, TokenizerEnv};
use nvllm_core::TokenId;

use crate::text::Tokenizer;

/// The bytes of every token, as a tree.
struct Vocabulary(TokTrie);

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<Id> {
        self.0.greedy_tokenize(bytes)
    }

    /// The model chooses its tokens itself where a grammar leaves one text only.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// The vocabulary of a model with `vocab_size` logits. Logits beyond the tokenizer's ids are no
/// text, and no special token is.
///
/// Errors if the tokenizer's tokens do not stand for the same bytes everywhere.
pub(super) fn vocabulary(
    tokenizer: &Tokenizer,
    vocab_size: usize,
    eos: &[TokenId],
) -> Result<TokEnv, String> {
    if tokenizer.joins_with_spaces() {
        return Err("needs a tokenizer with a decoder; this one's tokens are joined with spaces".into());
    }
    let word = |id: u32| -> Vec<u8> {
        if !tokenizer.is_special(id) && !eos.contains(&TokenId(id)) {
            return tokenizer.token_bytes(id).unwrap_or_default();
        }
        let name = tokenizer.token(id).unwrap_or_default();
        std::iter::once(TokTrie::SPECIAL_TOKEN_MARKER).chain(name.into_bytes()).collect()
    };
    let words: Vec<_> = (0..vocab_size as u32).map(word).collect();
    let eos: Vec<Id> = eos.iter().map(|token| token.0).collect();
    let info = TokRxInfo::new(vocab_size as u32, eos.first().copied().unwrap_or(INVALID_TOKEN));
    let trie = TokTrie::from(&info, &words);
    let trie = if eos.len() > 1 { trie.with_eos_tokens(&eos) } else { trie };
    Ok(Arc::new(Vocabulary(trie)))
}
