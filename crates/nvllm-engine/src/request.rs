//! What a client asks for and what it gets back.

use std::time::{Duration, Instant};

use nvllm_core::{HostTensor, SamplingParams, TokenId, TokenLogprobs};
use nvllm_sched::FinishReason;

/// One sequence to generate.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The prompt, at least one token.
    pub prompt: Vec<TokenId>,
    /// How it is sampled; `stop_tokens` end it.
    pub sampling: SamplingParams,
    /// Tokens to generate at most; as many as there is room for if not given.
    pub max_tokens: Option<usize>,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Whether the stop string or stop token is part of the text.
    pub include_stop: bool,
    /// Whether special tokens are part of the text.
    pub show_special_tokens: bool,
    /// Log-probabilities of each sampled token and of this many of the most likely ones.
    pub logprobs: Option<u16>,
    /// The same for the prompt's tokens; the first has none, as nothing comes before it.
    pub prompt_logprobs: Option<u16>,
    /// The logits of every row, prompt and output.
    pub logits: bool,
    /// Position ids of the prompt's tokens instead of 0, 1, 2, ..
    pub positions: Option<Vec<u32>>,
    /// Smaller is admitted earlier.
    pub priority: i32,
}

/// News of a request, in order; the last is [`Finished`](Self::Finished).
#[derive(Debug)]
pub enum Event {
    /// A row of the prompt whose scores or logits were asked for.
    PromptRow {
        /// Index of the prompt token that the row was computed from.
        index: usize,
        /// Scores of the next prompt token.
        logprobs: Option<TokenLogprobs>,
        /// Logits `[vocab]`, f32.
        logits: Option<HostTensor>,
    },
    /// A generated token.
    Token {
        /// The token.
        token: TokenId,
        /// Text that became final with it; empty while a code point or a stop string may be incomplete.
        text: String,
        /// Its scores.
        logprobs: Option<TokenLogprobs>,
        /// Logits `[vocab]`, f32, that it was sampled from.
        logits: Option<HostTensor>,
        /// When its step was collected.
        at: Instant,
    },
    /// The end.
    Finished(Finished),
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// What failed, if it did.
    pub error: Option<String>,
    /// Text that was held back until now.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub output_tokens: usize,
    /// From submission to the first token.
    pub time_to_first_token: Option<Duration>,
    /// From the first token to the last.
    pub decode_time: Duration,
}
