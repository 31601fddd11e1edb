//! One request and its answer, whoever gives it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// A prompt as it is sent.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Prompt {
    Tokens(Vec<u32>),
    Text(String),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) prompt: Prompt,
    pub(super) output_len: usize,
    /// When the client goes away, if it does.
    pub(super) cancel_after: Option<Duration>,
}

/// A whole answer. Times are seconds from when it was sent.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) prompt_tokens: usize,
    pub(super) output_tokens: usize,
    /// Of the first chunk with content.
    pub(super) ttft: f64,
    pub(super) e2el: f64,
    /// Of every chunk with content.
    pub(super) chunks: Vec<f64>,
    pub(super) text: String,
}

impl Answer {
    /// Of a prompt and an output of so many tokens, whose chunks with content came at these times.
    ///
    /// Errors if there are none.
    pub(super) fn new(
        (prompt_tokens, output_tokens): (usize, usize),
        chunks: Vec<f64>,
        text: String,
    ) -> Result<Self, NoAnswer> {
        let (Some(&ttft), Some(&e2el)) = (chunks.first(), chunks.last()) else {
            return Err(NoAnswer::Failed("the answer has no text".into()));
        };
        Ok(Self { prompt_tokens, output_tokens, ttft, e2el, chunks, text })
    }

    /// Gaps between chunks with content.
    pub(super) fn itl(&self) -> impl Iterator<Item = f64> + '_ {
        self.chunks.windows(2).map(|pair| pair[1] - pair[0])
    }
}

/// What came in place of an answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// 429 or 503: the server has no room.
    Refused(u16),
    /// The client went away, as it was told to.
    Cancelled,
    /// Anything else.
    Failed(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => write!(f, "refused with status {status}"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}
