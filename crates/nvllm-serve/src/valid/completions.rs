//! Prompts to be continued.

use super::sampling::{MAX_TOP_LOGPROBS, ValidSampling};
use super::within;
use crate::error::ApiError;
use crate::served::Served;
use crate::wire::completions::{CompletionFields, Prompts};
use crate::wire::sampling::SamplingFields;

/// `OpenAI`'s default for tokens to generate.
const MAX_TOKENS: usize = 16;
/// Log-probabilities of prompt tokens in one answer, over all choices.
const MAX_PROMPT_SCORES: usize = 1 << 21;
/// Tokens that may be allowed, over all prompts of a request.
const MAX_ALLOWED: usize = 1 << 22;
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
        let prompts = prompts("prompt", completion.prompt)?;
        let allowed = sampling.request.allowed_tokens.as_ref().map_or(0, Vec::len);
        if allowed.saturating_mul(prompts.len()) > MAX_ALLOWED {
            let problem = format!(
                "has {allowed} tokens for each of {} prompts; send fewer prompts at once",
                prompts.len()
            );
            return Err(ApiError::bad("allowed_token_ids", problem));
        }
        Ok(Self { prompts, echo, prompt_logprobs, sampling })
    }
}

impl ValidCompletion {
    /// The prompts that came as text and are not cut.
    pub(crate) fn texts(&self) -> Vec<Option<String>> {
        let text = |prompt: &Prompt| match prompt {
            Prompt::Text(text) if self.sampling.truncate.is_none() => Some(text.clone()),
            _ => None,
        };
        self.prompts.iter().map(text).collect()
    }

    /// Errors if the scores of these prompts would be repeated for more answers than is worth it.
    pub(crate) fn check_scores(&self, prompt_tokens: usize) -> Result<(), ApiError> {
        let request = &self.sampling.request;
        let rows = prompt_tokens.saturating_mul(request.n.unwrap_or(1));
        let scores = request.prompt_logprobs.map_or(0, |k| rows.saturating_mul(usize::from(k) + 1));
        if scores <= MAX_PROMPT_SCORES {
            return Ok(());
        }
        let problem =
            format!("of the prompts, for every answer, are {scores}; ask for {MAX_PROMPT_SCORES} at most");
        Err(ApiError::bad("logprobs", problem))
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
