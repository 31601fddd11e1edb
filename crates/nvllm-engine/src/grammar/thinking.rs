//! Where a model thinks before it answers.

use nvllm_core::TokenId;

use crate::text::Tokenizer;

/// The token that ends the thoughts that a prompt leaves open: a grammar is about the answer, which
/// begins behind it. `None` if the prompt opens none, or if `<think>` and `</think>` are no tokens
/// of the vocabulary.
///
/// What comes before the last special token belongs to earlier messages, whoever wrote it.
pub(crate) fn end_of_open_thinking(tokenizer: &Tokenizer, prompt: &[TokenId]) -> Option<TokenId> {
    let id = |name| tokenizer.token_id(name).map(TokenId);
    let (begin, end) = (id("<think>")?, id("</think>")?);
    let ends = |token: &&TokenId| **token == begin || **token == end || tokenizer.is_special(token.0);
    (prompt.iter().rev().find(ends) == Some(&begin)).then_some(end)
}
