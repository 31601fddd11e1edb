//! Prompts to be continued.

use super::sampling::{MAX_TOP_LOGPROBS, ValidSampling};
use super::within;
use crate::error::ApiError;
use crate::served::Served;
use crate::wire::completions::{CompletionFields, Prompts};
use crate::wire::sampling::SamplingFields;

/// `OpenAI`'s default for tokens to generate.
const MAX_TOKENS: usize = 16;
/// Prompts of one request.
const MAX_PROMPTS: usize = 2048;

/// A request of `/v1/completions`.
#[derive(Clone, Debug)]
pub(crate) struct ValidCompletion {
    /// At least one.
    pub(crate) prompts: Vec<Prompt>,
    /// Whether the answers begin with their prompts.
    pub(crate) echo: bool,
    /// Whether the prompts' log-probabilities are given apart from the answers'.
    pub(crate) prompt_logprobs: bool,
    pub(crate) sampling: ValidSampling,
}

/// A prompt as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl ValidCompletion {
    /// Errors with the first field that cannot be met.
    pub(crate) fn new(
        completion: CompletionFields,
        sampling: SamplingFields,
        served: &Served,
    ) -> Result<Self, ApiError> {
        // A prompt that is scored, and not gone on with.
        let nothing = sampling.max_tokens == Some(0) && completion.echo == Some(true);
        let sampling = SamplingFields { max_tokens: sampling.max_tokens.filter(|_| !nothing), ..sampling };
        let mut sampling = ValidSampling::new(sampling, served)?;
        let most = if nothing { 0 } else { sampling.request.max_tokens.unwrap_or(MAX_TOKENS) };
        sampling.request.max_tokens = Some(most);
        let logprobs = within("logprobs", completion.logprobs, 0, MAX_TOP_LOGPROBS)?;
        sampling.request.logprobs = logprobs.map(|k| k as u16);
        let echo = completion.echo.unwrap_or(false);
        let prompt_logprobs = sampling.request.prompt_logprobs.is_some();
        if echo && logprobs.is_some() {
            sampling.request.prompt_logprobs =
                sampling.request.prompt_logprobs.max(sampling.request.logprobs);
        }
        Ok(Self { prompts: prompts("prompt", completion.prompt)?, echo, prompt_logprobs, sampling })
    }
}

/// The prompts of the field `param`.
pub(crate) fn prompts(param: &str, wire: Option<Prompts>) -> Result<Vec<Prompt>, ApiError> {
    let prompts: Vec<_> = match wire {
        None => return Err(ApiError::bad(param, "is missing; give a text or token ids")),
        Some(Prompts::Text(text)) => vec![Prompt::Text(text)],
        Some(Prompts::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
        Some(Prompts::Tokens(ids)) => vec![Prompt::Tokens(ids)],
        Some(Prompts::TokenLists(lists)) => lists.into_iter().map(Prompt::Tokens).collect(),
    };
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        let problem = format!("has {} entries; give 1 to {MAX_PROMPTS}", prompts.len());
        return Err(ApiError::bad(param, problem));
    }
    Ok(prompts)
}
