//! All that came of a choice of a request.

use nvllm_core::{TokenId, TokenLogprobs};

use crate::{EngineError, Event, Finished, RequestId, Result};

/// What a choice that ran to its end gave, without logits: for these read its events.
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
    /// Scores of the prompt's tokens from the second on, if they were asked for, else none. The
    /// first choice has them.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// How it ended.
    pub finished: Finished,
}

impl Generated {
    /// `n` choices of which nothing has come yet.
    pub(crate) fn choices(id: RequestId, n: usize) -> Vec<Self> {
        let empty = |choice| Self {
            id,
            tokens: Vec::new(),
            text: String::new(),
            logprobs: Vec::new(),
            prompt_logprobs: Vec::new(),
            finished: Finished { choice, ..Finished::failed("its events broke off") },
        };
        (0..n).map(empty).collect()
    }

    /// Adds an event to the choice that it belongs to.
    pub(crate) fn push(choices: &mut [Self], event: Event) {
        let of = match &event {
            Event::PromptRow { .. } | Event::Embedding { .. } => 0,
            Event::Token { choice, .. } => *choice,
            Event::Finished(finished) => finished.choice,
        };
        let Some(choice) = choices.get_mut(of) else { return };
        match event {
            Event::Embedding { .. } => {}
            Event::PromptRow { logprobs, .. } => choice.prompt_logprobs.extend(logprobs),
            Event::Token { token, text, logprobs, .. } => {
                choice.tokens.push(token);
                choice.text += &text;
                choice.logprobs.extend(logprobs);
            }
            Event::Finished(finished) => {
                choice.text += &finished.text;
                choice.finished = finished;
            }
        }
    }

    /// Errors if the choice failed.
    pub(crate) fn checked(self) -> Result<Self> {
        match self.finished.error {
            Some(reason) => Err(EngineError::Generation { reason }),
            None => Ok(self),
        }
    }
}
