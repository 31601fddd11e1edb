//! What may be submitted: every refusal of a request, made on the caller's thread.

use std::sync::Arc;

use nvllm_core::RequestLimits;
use nvllm_sched::{NewSequence, SchedConfig};

use crate::text::Tokenizer;
use crate::text_stage::TextStream;
use crate::{EngineError, Request, Result};

/// What requests are checked against. Fixed once the model is loaded, so that no thread has to be
/// asked.
pub(crate) struct Validator {
    pub(crate) vocab_size: usize,
    pub(crate) request_limits: RequestLimits,
    pub(crate) sched: SchedConfig,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
}

impl Validator {
    /// The sequence that `request` asks for, and the text that comes of it if the model has a
    /// tokenizer.
    ///
    /// Errors if the request could not run even alone. What passes, the scheduler takes, and no
    /// step is refused for it: a step that the backend refuses would fail every request in it.
    pub(crate) fn check(&self, request: Request) -> Result<(NewSequence, Option<TextStream>)> {
        self.request_limits.check(&request.sampling)?;
        request.sampling.check(self.vocab_size)?;
        let text = TextStream::new(self.tokenizer.as_ref(), &request)?;
        let vocab_size = self.vocab_size;
        if let Some(&token) = request.prompt.iter().find(|t| t.index() >= vocab_size) {
            return Err(EngineError::PromptToken { token, vocab_size });
        }
        let new = NewSequence {
            prompt: request.prompt.into(),
            sampling: Arc::new(request.sampling),
            max_tokens: request.max_tokens,
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            logits: request.logits,
            priority: request.priority,
            positions: request.positions.map(Into::into),
        };
        new.max_tokens(&self.sched)?;
        Ok((new, text))
    }
}
