//! The rule that keeps an output within a grammar.

use llguidance::Matcher;
use nvllm_core::TokenId;

use super::{Grammar, in_one_line};
use crate::answer::Thinking;
use crate::token_mask::{TokenMask, allow, bar};

/// What an output may go on with: what the grammar allows, and the stop tokens exactly where it is
/// complete.
pub(crate) struct GrammarMask {
    grammar: Grammar,
    /// Made with the first mask, by the thread that makes masks.
    matcher: Option<Matcher>,
    stop_tokens: Vec<TokenId>,
    /// Thoughts are free, but for an end.
    thinking: Thinking,
    /// Tokens of the output that have been looked at.
    num_seen: usize,
    is_complete: bool,
}

impl GrammarMask {
    /// The rule of a sequence with these stop tokens, whose answer begins behind its thoughts.
    pub(crate) fn new(grammar: &Grammar, stop_tokens: &[TokenId], thinking: Thinking) -> Self {
        Self {
            grammar: grammar.clone(),
            matcher: None,
            stop_tokens: stop_tokens.to_vec(),
            thinking,
            num_seen: 0,
            is_complete: false,
        }
    }
}

impl TokenMask for GrammarMask {
    fn restrict(&mut self, output: &[TokenId], mask: &mut [u32]) -> Result<(), String> {
        let new = output.get(self.num_seen..).unwrap_or_default();
        self.num_seen = output.len();
        let tokens: Vec<u32> =
            new.iter().filter(|token| self.thinking.push(**token)).map(|token| token.0).collect();
        if let Thinking::Within { .. } = self.thinking {
            self.stop_tokens.iter().for_each(|token| bar(mask, *token));
            return Ok(());
        }
        let failed = |error| match in_one_line(error) {
            error if error.starts_with("NoExtension") => "no text may follow".into(),
            error => error,
        };
        let matcher = self.matcher.get_or_insert_with(|| self.grammar.matcher());
        matcher.consume_tokens(&tokens).map_err(failed)?;
        self.is_complete = matcher.is_accepting().map_err(failed)?;
        let mut allowed = vec![0; mask.len()];
        if !matcher.is_stopped() {
            let mask = matcher.compute_mask().map_err(failed)?;
            allowed.iter_mut().zip(mask.as_slice()).for_each(|(word, mask)| *word = *mask);
        }
        // The matcher allows an end with the model's own tokens, whatever ends this output.
        self.grammar.eos().iter().for_each(|token| bar(&mut allowed, *token));
        if self.is_complete {
            self.stop_tokens.iter().for_each(|token| allow(&mut allowed, *token));
        }
        if let Thinking::Ahead { begin, .. } = self.thinking {
            allow(&mut allowed, begin);
        }
        mask.iter_mut().zip(allowed).for_each(|(word, allowed)| *word &= allowed);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.is_complete
    }
}
