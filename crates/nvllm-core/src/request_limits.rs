//! What a loaded model takes from one request.

use crate::{CoreError, Result, SamplingParams};

/// How long the lists of one request may be. A backend that keeps them in tables of a fixed size
/// says so here, so that a request is refused alone and not with the step that it would have been
/// part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Most stop tokens.
    pub stop_tokens: usize,
    /// Most biased logits.
    pub logit_biases: usize,
}

impl Default for RequestLimits {
    /// No limit.
    fn default() -> Self {
        Self { stop_tokens: usize::MAX, logit_biases: usize::MAX }
    }
}

impl RequestLimits {
    /// Errors with the first list that is too long.
    pub fn check(&self, params: &SamplingParams) -> Result<()> {
        let lists = [
            ("logit_bias", params.logit_bias.len(), self.logit_biases),
            ("stop_token_ids", params.stop_tokens.len(), self.stop_tokens),
        ];
        match lists.into_iter().find(|(_, len, most)| len > most) {
            None => Ok(()),
            Some((field, len, most)) => Err(CoreError::BadSampling {
                field,
                value: format!("{len} entries long"),
                range: format!("the backend takes {most} or fewer"),
            }),
        }
    }
}
