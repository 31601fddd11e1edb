//! One mask: what it is made from, and why there may be none.

use std::sync::Arc;

use nvllm_core::{SamplingParams, TokenId};
use nvllm_sched::FinishReason;

use crate::text::contained;
use crate::token_mask::{TokenMask, all_tokens, bar};

/// What one mask is made from, and the mask.
pub(super) struct MaskJob {
    rule: Box<dyn TokenMask>,
    /// What the sequence has sampled.
    output: Vec<TokenId>,
    /// Its stop tokens are barred before `min_tokens`: by the sampler, after the mask.
    sampling: Arc<SamplingParams>,
    vocab_size: usize,
    made: Result<Vec<u32>, NoToken>,
}

/// Why no token may follow an output.
#[derive(Clone, Debug)]
pub(super) struct NoToken {
    pub(super) reason: FinishReason,
    pub(super) error: Option<String>,
}

impl NoToken {
    pub(super) fn lost() -> Self {
        let error = "its mask is lost; this is a fault in the engine";
        Self { reason: FinishReason::Failed, error: Some(error.into()) }
    }

    fn barred(error: impl Into<String>) -> Self {
        Self { reason: FinishReason::Barred, error: Some(error.into()) }
    }
}

impl MaskJob {
    /// A sequence that has sampled nothing, and no mask yet.
    pub(super) fn new(rule: Box<dyn TokenMask>, sampling: Arc<SamplingParams>, vocab_size: usize) -> Self {
        Self { rule, output: Vec::new(), sampling, vocab_size, made: Err(NoToken::lost()) }
    }

    /// The sequence has sampled a token.
    pub(super) fn push(&mut self, token: TokenId) {
        self.output.push(token);
    }

    /// The mask of the token after `output`, if that is what was made last. Errors if no token may
    /// follow.
    pub(super) fn mask_after(&self, output: &[TokenId]) -> Result<Vec<u32>, NoToken> {
        if self.output == output { self.made.clone() } else { Err(NoToken::lost()) }
    }

    /// Makes the mask of the token after the output. A panic ends this sequence only: whoever waits
    /// for the job has it back.
    pub(super) fn run(&mut self) {
        self.made = contained(|| self.make()).unwrap_or_else(|| Err(NoToken::lost()));
    }

    fn make(&mut self) -> Result<Vec<u32>, NoToken> {
        let Self { rule, output, sampling, vocab_size, .. } = self;
        let mut words = all_tokens(*vocab_size);
        let stuck = |reason| {
            format!("after {} tokens what restricts them cannot be followed: {reason}", output.len())
        };
        rule.restrict(output, &mut words).map_err(|reason| NoToken::barred(stuck(reason)))?;
        let is_early = output.len() < sampling.min_tokens as usize;
        let left = |words: &[u32]| words.iter().any(|word| *word != 0);
        let some_left = left(&words)
            && (!is_early || {
                let mut words = words.clone();
                sampling.stop_tokens.iter().for_each(|token| bar(&mut words, *token));
                left(&words)
            });
        if some_left {
            return Ok(words);
        }
        if rule.is_complete() {
            return Err(NoToken { reason: FinishReason::Complete, error: None });
        }
        Err(NoToken::barred(format!(
            "no token is left to sample after {} tokens: what restricts them (`allowed_token_ids`, `bad_words`, \
             `min_tokens`, a grammar) bars all; allow more",
            output.len()
        )))
    }
}
