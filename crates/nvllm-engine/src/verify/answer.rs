//! What a request was answered.

use crate::Generated;

/// What came of one choice of a request.
pub(super) struct Answer {
    pub request: usize,
    pub choice: usize,
    /// Tokens that it was to stop after, if not at its full length.
    pub stopped_at: Option<usize>,
    pub generated: Generated,
}

/// Tokens of an answer that are compared.
pub(super) fn num_tokens(answer: &Generated) -> usize {
    answer.prompt_logprobs.len() + answer.tokens.len()
}
