//! Where a model thinks before it answers, by its tokens.

use nvllm_core::TokenId;

use crate::text::Tokenizer;
use crate::token_mask::{TokenMask, allow};

/// How far an output is with its thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// Nothing has come: the first token tells whether there are thoughts.
    Ahead { begin: TokenId, end: TokenId },
    /// Within thoughts, which this token ends.
    Within { end: TokenId },
    /// What comes is the answer.
    Over,
}

impl Thinking {
    /// What a prompt leaves open. `Over` if `<think>` and `</think>` are no tokens of the
    /// vocabulary, and behind thoughts that the prompt has closed. A prompt without thoughts may
    /// be followed by some.
    ///
    /// What comes before the last special token belongs to earlier messages, whoever wrote it.
    pub(crate) fn behind(tokenizer: &Tokenizer, prompt: &[TokenId]) -> Self {
        let id = |name| tokenizer.token_id(name).map(TokenId);
        let (Some(begin), Some(end)) = (id("<think>"), id("</think>")) else { return Self::Over };
        let ends = |token: &&TokenId| **token == begin || **token == end || tokenizer.is_special(token.0);
        match prompt.iter().rev().find(ends) {
            Some(token) if *token == begin => Self::Within { end },
            Some(token) if *token == end => Self::Over,
            _ => Self::Ahead { begin, end },
        }
    }

    /// The same, unless thoughts would begin with the output: there are none then.
    pub(crate) fn if_open(self) -> Self {
        if let Self::Ahead { .. } = self { Self::Over } else { self }
    }

    /// Takes in the next token of the output. True if it is one of the answer.
    pub(crate) fn push(&mut self, token: TokenId) -> bool {
        match *self {
            Self::Ahead { begin, end } if token == begin => *self = Self::Within { end },
            Self::Within { end } if token == end => *self = Self::Over,
            Self::Within { .. } => {}
            Self::Ahead { .. } | Self::Over => {
                *self = Self::Over;
                return true;
            }
        }
        false
    }
}

/// Whether a prompt ends within thoughts: it has `<think>` in its last message, and `</think>` not
/// behind it.
pub fn prompt_opens_thinking(tokenizer: &Tokenizer, prompt: &[TokenId]) -> bool {
    matches!(Thinking::behind(tokenizer, prompt), Thinking::Within { .. })
}

/// Ends thoughts that are long enough: behind so many tokens of them only their end may follow.
#[derive(Clone)]
pub(crate) struct ThinkingBudget {
    thinking: Thinking,
    /// Tokens of thought that may still come.
    left: usize,
    /// Tokens of the output that have been looked at.
    num_seen: usize,
}

impl ThinkingBudget {
    /// For an output that begins as `thinking` says, with `budget` tokens of thought at most,
    /// their marks not counted.
    pub(crate) fn new(thinking: Thinking, budget: usize) -> Self {
        Self { thinking, left: budget, num_seen: 0 }
    }
}

impl TokenMask for ThinkingBudget {
    fn restrict(&mut self, output: &[TokenId], mask: &mut [u32]) -> Result<(), String> {
        for token in output.get(self.num_seen..).unwrap_or_default() {
            let was_within = matches!(self.thinking, Thinking::Within { .. });
            self.thinking.push(*token);
            self.left = self.left.saturating_sub(usize::from(was_within));
        }
        self.num_seen = output.len();
        if let Thinking::Within { end } = self.thinking
            && self.left == 0
        {
            let mut only = vec![0; mask.len()];
            allow(&mut only, end);
            mask.iter_mut().zip(only).for_each(|(word, only)| *word &= only);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token_mask::all_tokens;

    const VOCAB_SIZE: usize = 40;
    const BEGIN: TokenId = TokenId(1);
    const END: TokenId = TokenId(2);

    /// Whether only the end may follow each beginning of the output.
    fn is_forced(mut rule: ThinkingBudget, output: &[u32]) -> Vec<bool> {
        let output: Vec<TokenId> = output.iter().copied().map(TokenId).collect();
        let mut end = vec![0; VOCAB_SIZE.div_ceil(32)];
        allow(&mut end, END);
        let forced = (0..=output.len()).map(|len| {
            let mut mask = all_tokens(VOCAB_SIZE);
            rule.restrict(&output[..len], &mut mask).unwrap();
            assert!(mask == end || mask == all_tokens(VOCAB_SIZE));
            mask == end
        });
        forced.collect()
    }

    #[test]
    fn thoughts_end_behind_their_budget() {
        let ahead = Thinking::Ahead { begin: BEGIN, end: END };
        let within = Thinking::Within { end: END };
        for (thinking, budget, output, forced) in [
            (within, 2, &[5, 6, 2, 7][..], &[false, false, true, false, false][..]),
            (within, 0, &[2, 7], &[true, false, false]),
            (ahead, 1, &[1, 5, 2, 7, 1, 8], &[false, false, true, false, false, false, false]),
            (ahead, 0, &[1, 2], &[false, true, false]),
            (ahead, 0, &[7, 1, 8], &[false; 4]),
            (Thinking::Over, 0, &[7], &[false; 2]),
            // Ended by itself.
            (within, 9, &[5, 2, 6], &[false; 4]),
        ] {
            assert_eq!(is_forced(ThinkingBudget::new(thinking, budget), output), forced, "{output:?}");
        }
    }
}
