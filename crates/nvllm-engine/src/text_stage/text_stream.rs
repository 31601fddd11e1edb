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
    /// The stop strings that `stop` looks for.
    stop_strings: Vec<String>,
    stop: StopMatcher,
    /// Which of them was found.
    stopped: Option<usize>,
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
            stop_strings: request.stop.clone(),
            stopped: None,
        }))
    }

    /// Appends to `out` the text that `token` makes final. Returns the stop string that ends the
    /// text, once one is complete.
    pub(super) fn push(&mut self, token: TokenId, out: &mut String) -> Option<&str> {
        if self.end_tokens.contains(&token) {
            return self.stop_string();
        }
        let found = if self.skip_special && self.tokenizer.is_special(token.0) {
            self.stop.push_hidden(token.0, out)
        } else {
            let mut piece = String::new();
            self.detokenizer.push(token.0, &mut piece);
            self.stop.push(&piece, out)
        };
        if let StopOutput::Stopped(index) = found {
            self.stopped = Some(index);
        }
        self.stop_string()
    }

    fn stop_string(&self) -> Option<&str> {
        self.stop_strings.get(self.stopped?).map(String::as_str)
    }

    /// What was still held back.
    pub(super) fn finish(mut self) -> String {
        let mut out = String::new();
        if self.stopped.is_none() {
            let mut piece = String::new();
            self.detokenizer.finish(&mut piece);
            let _ = self.stop.push(&piece, &mut out);
            self.stop.finish(&mut out);
        }
        out
    }
}
