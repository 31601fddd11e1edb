//! Tokens that a submission took, counted as its events come.

use nvllm_engine::Event;

use crate::submission::ChoiceEvent;
use crate::wire::shared::{CompletionTokensDetails, PromptTokensDetails, Usage};

/// The usage so far.
#[derive(Clone, Debug)]
pub(crate) struct UsageCount {
    prompt_tokens: usize,
    completion_tokens: usize,
    /// Of them, where they are told apart.
    reasoning_tokens: Option<usize>,
    /// Of each prompt, as its choices tell it.
    cached_tokens: Vec<usize>,
    n: usize,
}

impl UsageCount {
    /// For prompts of these lengths, `n` choices each.
    pub(crate) fn new(prompt_lens: impl IntoIterator<Item = usize>, n: usize) -> Self {
        let lens: Vec<_> = prompt_lens.into_iter().collect();
        Self {
            prompt_tokens: lens.iter().sum(),
            completion_tokens: 0,
            reasoning_tokens: None,
            cached_tokens: vec![0; lens.len()],
            n: n.max(1),
        }
    }

    pub(crate) fn count(&mut self, news: &ChoiceEvent) {
        match &news.event {
            Event::Token { .. } => self.completion_tokens += 1,
            Event::Finished(finished) => {
                if let Some(cached) = self.cached_tokens.get_mut(news.choice / self.n) {
                    *cached = finished.cached_tokens;
                }
            }
            Event::PromptRow { .. } | Event::Embedding { .. } => {}
        }
    }

    /// For answers that may think.
    pub(crate) fn with_reasoning(self) -> Self {
        Self { reasoning_tokens: Some(0), ..self }
    }

    /// One of the tokens was a thought.
    pub(crate) fn count_reasoning(&mut self) {
        self.reasoning_tokens = self.reasoning_tokens.map(|tokens| tokens + 1);
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            total_tokens: self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: self.cached_tokens.iter().sum() },
            completion_tokens_details: self
                .reasoning_tokens
                .map(|reasoning_tokens| CompletionTokensDetails { reasoning_tokens }),
        }
    }
}
