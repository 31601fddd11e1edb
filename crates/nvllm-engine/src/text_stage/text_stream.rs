//! The text of one request: stop tokens, detokenizer, stop strings.

use std::sync::Arc;

use nvllm_core::TokenId;

use crate::text::{AddedToken, Detokenizer, StopMatcher, StopOutput, TextStart, Tokenizer};
use crate::{EngineError, Request, Result};

/// Tokens in, final text out.
pub(crate) struct TextStream {
    tokenizer: Arc<Tokenizer>,
    /// Tokens that end the text before themselves.
    end_tokens: Vec<TokenId>,
    /// Whether special tokens are left out of the text.
    skip_special: bool,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    stopped: bool,
}

impl TextStream {
    /// A stream for `request`; `None` if the model has no tokenizer. Errors if stop strings then
    /// ask for one.
    pub(crate) fn new(tokenizer: Option<&Arc<Tokenizer>>, request: &Request) -> Result<Option<Self>> {
        let Some(tokenizer) = tokenizer else {
            return match request.stop.first() {
                None => Ok(None),
                Some(stop) => Err(EngineError::Option {
                    option: "stop",
                    problem: format!("is {stop:?}; the model has no tokenizer and therefore no text"),
                }),
            };
        };
        let end_tokens = if request.include_stop { Vec::new() } else { request.sampling.stop_tokens.clone() };
        let skip_special = !request.show_special_tokens;
        let is_hidden = |token: &&AddedToken| skip_special && token.special;
        let hidden: Vec<_> = tokenizer.added_tokens().iter().filter(is_hidden).collect();
        Ok(Some(Self {
            tokenizer: Arc::clone(tokenizer),
            end_tokens,
            skip_special,
            detokenizer: Detokenizer::new(Arc::clone(tokenizer), skip_special, TextStart::Continuation),
            stop: StopMatcher::new(&request.stop, request.include_stop, &hidden)?,
            stopped: false,
        }))
    }

    /// Appends to `out` the text that `token` makes final. True once a stop string is complete.
    pub(super) fn push(&mut self, token: TokenId, out: &mut String) -> bool {
        if self.end_tokens.contains(&token) {
            return self.stopped;
        }
        let found = if self.skip_special && self.tokenizer.is_special(token.0) {
            self.stop.push_hidden(token.0, out)
        } else {
            let mut piece = String::new();
            self.detokenizer.push(token.0, &mut piece);
            self.stop.push(&piece, out)
        };
        self.stopped |= found != StopOutput::Running;
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
