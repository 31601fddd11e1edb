//! What adapters say, one JSON object a line.

use serde::Deserialize;

use crate::measure::SetTimes;

/// The first line.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Hello {
    Missing { missing: String },
    Ready(Ready),
}

/// A peer that can start.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    pub version: String,
    pub detail: String,
    /// The checkpoint's if not given.
    pub weights: Option<String>,
    pub activations: String,
    pub kv: String,
    /// Commands that it knows.
    pub ops: Vec<String>,
}

impl Hello {
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        serde_json::from_str(line)
            .map_err(|_| format!("its adapter ended before it was ready (it said {:?})", line.trim_end()))
    }

    pub(super) fn ready(self) -> Result<Ready, String> {
        match self {
            Self::Ready(ready) => Ok(ready),
            Self::Missing { missing } => Err(format!("not installed: {missing}")),
        }
    }
}

/// Any later line: what was asked for, or what went wrong.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Answer<T> {
    Failed { error: String },
    Good(T),
}

impl<T: for<'a> Deserialize<'a>> Answer<T> {
    pub(super) fn parse(line: &str) -> Result<T, String> {
        match serde_json::from_str(line) {
            Ok(Self::Good(answer)) => Ok(answer),
            Ok(Self::Failed { error }) => Err(error),
            Err(_) if line.is_empty() => Err("its process has ended".into()),
            Err(_) => Err(format!("it answered {:?}", line.trim_end())),
        }
    }
}

/// Prompts that it ran.
#[derive(Debug, Deserialize)]
pub(super) struct Prefilled {
    /// Until the first tokens are known.
    pub seconds: f64,
    /// After the first prompt.
    #[serde(flatten)]
    pub scores: Scores,
}

/// What a peer tells of its likeliest next tokens.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scores {
    /// Id and logit, likeliest first.
    Logits(Vec<(u32, f32)>),
    /// Id and natural logarithm of the probability, likeliest first.
    Logprobs(Vec<(u32, f32)>),
    /// The token that it chose, and nothing more.
    Chosen(u32),
}

/// Steps that it made.
#[derive(Debug, Deserialize)]
pub(super) struct Decoded {
    pub seconds: Vec<f64>,
}

/// A set of requests that it ran.
#[derive(Debug, Deserialize)]
pub(super) struct SetRun {
    /// Until the last token.
    pub seconds: f64,
    /// By request: seconds from its submission to each of its tokens.
    pub token_seconds: Vec<Vec<f64>>,
}

impl SetRun {
    /// Refuses a run that made other tokens than asked for.
    pub(super) fn times(self, num_requests: usize, output_lens: &[usize]) -> Result<SetTimes, String> {
        let made: Vec<usize> = self.token_seconds.iter().map(Vec::len).collect();
        if made.len() != num_requests || made != output_lens {
            return Err(format!(
                "it made {} tokens in {} requests; {} in {num_requests} were asked for",
                made.iter().sum::<usize>(),
                made.len(),
                output_lens.iter().sum::<usize>()
            ));
        }
        let times = self.token_seconds;
        let gaps = |tokens: &Vec<f64>| tokens.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
        Ok(SetTimes {
            seconds: self.seconds,
            ttft: times.iter().filter_map(|tokens| tokens.first().copied()).collect(),
            e2el: times.iter().filter_map(|tokens| tokens.last().copied()).collect(),
            itl: times.iter().flat_map(gaps).collect(),
        })
    }
}
