//! All that came of a request.

use nvllm_core::{TokenId, TokenLogprobs};

use crate::{EngineError, Event, Finished, RequestId, Result};

/// What a request that ran to its end gave, without logits: for these read its events.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Generated {
    /// The request.
    pub id: RequestId,
    /// The generated tokens; a stop token is the last of them.
    pub tokens: Vec<TokenId>,
    /// Their text; empty if the model has no tokenizer.
    pub text: String,
    /// Scores of the tokens, one each if they were asked for, else none.
    pub logprobs: Vec<TokenLogprobs>,
    /// Scores of the prompt's tokens from the second on, if they were asked for, else none.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// How it ended.
    pub finished: Finished,
}

impl Generated {
    pub(crate) fn new(id: RequestId) -> Self {
        Self {
            id,
            tokens: Vec::new(),
            text: String::new(),
            logprobs: Vec::new(),
            prompt_logprobs: Vec::new(),
            finished: Finished::failed("its events broke off"),
        }
    }

    pub(crate) fn push(&mut self, event: Event) {
        match event {
            Event::PromptRow { logprobs, .. } => self.prompt_logprobs.extend(logprobs),
            Event::Token { token, text, logprobs, .. } => {
                self.tokens.push(token);
                self.text += &text;
                self.logprobs.extend(logprobs);
            }
            Event::Finished(finished) => {
                self.text += &finished.text;
                self.finished = finished;
            }
        }
    }

    /// Errors if the request failed.
    pub(crate) fn checked(self) -> Result<Self> {
        match self.finished.error {
            Some(reason) => Err(EngineError::Generation { reason }),
            None => Ok(self),
        }
    }
}
