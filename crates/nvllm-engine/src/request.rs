//! What a client asks for and what it gets back.

use std::fmt;
use std::time::{Duration, Instant};

use nvllm_core::{HostTensor, SamplingParams, TokenId, TokenLogprobs};
use nvllm_sched::FinishReason;

/// A request that an engine has taken. No two requests of a process have the same, whatever engine
/// they went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

impl RequestId {
    /// As a number, for logs.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

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

/// News of a request, in order. Every request that was taken ends with one
/// [`Finished`](Self::Finished), whatever happens.
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
        /// Text that became final with it; empty while a code point or a stop string may be
        /// incomplete.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Why. [`FinishReason::Aborted`] too where the engine was dropped before the request ended.
    pub reason: FinishReason,
    /// What failed: given exactly if the reason is [`FinishReason::Failed`].
    pub error: Option<String>,
    /// Text that was held back until now.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose keys and values were in the KV cache already; 0, as none are
    /// reused yet.
    pub cached_tokens: usize,
    /// Tokens generated, as many as there were [`Event::Token`]s.
    pub output_tokens: usize,
    /// From submission to admission into a slot, with the first step planned; none if it ended in
    /// the queue.
    pub queue_time: Option<Duration>,
    /// From submission to the first token.
    pub time_to_first_token: Option<Duration>,
    /// From the first token to the last.
    pub decode_time: Duration,
}

impl Finished {
    /// The end of a request of which nothing else is known.
    pub(crate) fn failed(error: impl Into<String>) -> Self {
        Self {
            reason: FinishReason::Failed,
            error: Some(error.into()),
            text: String::new(),
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            queue_time: None,
            time_to_first_token: None,
            decode_time: Duration::ZERO,
        }
    }
}
