//! From what a client sent to a prompt's tokens.

use nvllm_core::TokenId;
use nvllm_engine::text::{ChatInput, EncodeOptions, SpecialText};

use crate::error::ApiError;
use crate::served::Served;
use crate::valid::chat::Conversation;
use crate::valid::completions::Prompt;
use crate::valid::sampling::Truncate;

impl Served {
    /// The prompt of a conversation's next answer.
    pub(crate) fn chat_prompt(&self, conversation: &Conversation) -> Result<Vec<TokenId>, ApiError> {
        let input = ChatInput {
            messages: &conversation.messages,
            tools: (!conversation.tools.is_empty()).then_some(&*conversation.tools),
            documents: conversation.documents.as_deref(),
            add_generation_prompt: conversation.add_generation_prompt,
            template: conversation.template.as_deref(),
            kwargs: Some(&conversation.kwargs),
            ..ChatInput::default()
        };
        let continues = conversation.continue_final_message;
        let (template, tokenizer) = (self.template()?, self.tokenizer()?);
        let ids = template.encode(&input, continues, self.special_text, tokenizer).map_err(|error| {
            // About the tools if it is well without them.
            let fails_with_tools =
                input.tools.is_some() && template.render(&ChatInput { tools: None, ..input }).is_ok();
            let error = ApiError::from(error);
            if fails_with_tools { ApiError { param: Some("tools".into()), ..error } } else { error }
        })?;
        Ok(ids.into_iter().map(TokenId).collect())
    }

    /// The tokens of a prompt that is to be continued.
    pub(crate) fn text_prompt(
        &self,
        prompt: Prompt,
        add_special_tokens: Option<bool>,
    ) -> Result<Vec<TokenId>, ApiError> {
        let ids = match prompt {
            Prompt::Tokens(ids) => ids,
            Prompt::Text(text) => {
                let options = EncodeOptions {
                    add_special_tokens: add_special_tokens.unwrap_or(true),
                    // Who writes a raw prompt writes the model's own format.
                    special_text: SpecialText::Parse,
                };
                self.tokenizer()?.encode(&text, options)?
            }
        };
        Ok(ids.into_iter().map(TokenId).collect())
    }
}

/// Keeps a prompt's end only: as much as is asked for, or what leaves room for an answer of
/// `max_tokens` in a context of `max_model_len`.
pub(crate) fn truncated(
    mut prompt: Vec<TokenId>,
    truncate: Option<Truncate>,
    max_model_len: usize,
    max_tokens: Option<usize>,
) -> Vec<TokenId> {
    let keep = match truncate {
        None => return prompt,
        Some(Truncate::To(keep)) => keep,
        // One that fits stays whole: the answer takes what is left.
        Some(Truncate::ToContext) if prompt.len() < max_model_len => return prompt,
        // Half of the context for the answer at most.
        Some(Truncate::ToContext) => {
            max_model_len - max_tokens.unwrap_or(1).clamp(1, (max_model_len / 2).max(1))
        }
    };
    prompt.drain(..prompt.len().saturating_sub(keep));
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_cut_only_if_it_does_not_fit() {
        let len = |prompt: u32, truncate, max_tokens| {
            let prompt = (0..prompt).map(TokenId).collect();
            truncated(prompt, truncate, 100, max_tokens).len()
        };
        assert_eq!(len(20, Some(Truncate::ToContext), Some(100)), 20);
        assert_eq!(len(99, Some(Truncate::ToContext), Some(100)), 99);
        assert_eq!(len(200, Some(Truncate::ToContext), Some(10)), 90);
        assert_eq!(len(200, Some(Truncate::ToContext), Some(1000)), 50);
        assert_eq!(len(200, Some(Truncate::ToContext), None), 99);
        assert_eq!(len(20, Some(Truncate::To(5)), None), 5);
        assert_eq!(len(200, None, None), 200);
    }
}
