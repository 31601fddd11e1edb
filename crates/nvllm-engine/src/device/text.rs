//! The text of one request: detokenizer, then stop strings.

use std::sync::Arc;

use nvllm_core::TokenId;

use crate::text::{Detokenizer, StopMatcher, StopOutput, TextStart, Tokenizer};
use crate::{EngineError, Request, Result};

/// Tokens in, final text out.
pub(super) struct TextStream {
    detokenizer: Detokenizer,
    stop: StopMatcher,
    stopped: bool,
}

impl TextStream {
    /// A stream for `request`; `None` if the model has no tokenizer. Errors if stop strings then ask for one.
    pub(super) fn new(tokenizer: Option<&Arc<Tokenizer>>, request: &Request) -> Result<Option<Self>> {
        let Some(tokenizer) = tokenizer else {
            return match request.stop.first() {
                None => Ok(None),
                Some(stop) => Err(EngineError::Option {
                    option: "stop",
                    problem: format!("is {stop:?}; the model has no tokenizer and therefore no text"),
                }),
            };
        };
        let skip = !request.show_special_tokens;
        Ok(Some(Self {
            detokenizer: Detokenizer::new(Arc::clone(tokenizer), skip, TextStart::Continuation),
            stop: StopMatcher::new(&request.stop, request.include_stop)?,
            stopped: false,
        }))
    }

    /// Appends to `out` the text that `token` makes final. True once a stop string is complete.
    pub(super) fn push(&mut self, token: TokenId, out: &mut String) -> bool {
        let mut piece = String::new();
        self.detokenizer.push(token.0, &mut piece);
        self.stopped |= self.stop.push(&piece, out) != StopOutput::Running;
        self.stopped
    }

    /// What was still held back.
    pub(super) fn finish(mut self) -> String {
        let mut out = String::new();
        if !self.stopped {
            let mut piece = String::new();
            self.detokenizer.finish(&mut piece);
            let _ = self.stop.push(&piece, &mut out);
            self.stop.finish(&mut out);
        }
        out
    }
}
