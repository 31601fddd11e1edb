//! Where two answers to the same request part.

use std::fmt;

use nvllm_core::TokenLogprobs;
use serde::Serialize;

use super::answer::Answer;
use crate::Generated;

/// The first difference between an answer and the baseline's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The request, counted from 0.
    pub request: usize,
    /// Its choice, counted from 0.
    pub choice: usize,
    /// What differs.
    pub part: Part,
    /// At which token of that part, counted from 0.
    pub index: usize,
    /// The baseline's value, with its bits if it is a log-probability.
    pub expected: String,
    /// What came instead.
    pub got: String,
}

/// What of an answer differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The log-probability of a token of the prompt, counted from its second, or of those that
    /// are likeliest there.
    PromptLogprobs,
    /// A generated token.
    Token,
    /// Its log-probability, or those of the likeliest there.
    Logprobs,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PromptLogprobs => "logprobs of prompt token",
            Self::Token => "token",
            Self::Logprobs => "logprobs of token",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, choice, part, index, expected, got } = self;
        let choice = if *choice > 0 { format!(", choice {choice}") } else { String::new() };
        write!(f, "request {request}{choice}, {part} {index}: {got} instead of {expected}")
    }
}

/// The first difference; an answer that the baseline lacks has none.
pub(super) fn first_difference(answer: &Answer, expected: Option<&Generated>) -> Option<Difference> {
    let (got, expected) = (&answer.generated, expected?);
    let len = answer.stopped_at.unwrap_or(expected.tokens.len());
    let difference = |part, (index, expected, got)| Difference {
        request: answer.request,
        choice: answer.choice,
        part,
        index,
        expected,
        got,
    };
    let prompt = parted(&expected.prompt_logprobs, &got.prompt_logprobs, scores);
    if let Some(at) = prompt {
        return Some(difference(Part::PromptLogprobs, at));
    }
    let token = parted(&expected.tokens[..len], &got.tokens, |token| vec![token.to_string()]);
    let logprobs = parted(&expected.logprobs[..len], &got.logprobs, scores);
    // Scores part before a token does, or with it.
    match (token, logprobs) {
        (Some(token), Some(scores)) if scores.0 < token.0 => Some(difference(Part::Logprobs, scores)),
        (Some(token), _) => Some(difference(Part::Token, token)),
        (None, scores) => scores.map(|scores| difference(Part::Logprobs, scores)),
    }
}

/// The first place at which two lists differ, with the first of the values there that do, in words.
fn parted<T>(
    expected: &[T],
    got: &[T],
    values: impl Fn(&T) -> Vec<String>,
) -> Option<(usize, String, String)> {
    let of = |list: &[T], at| list.get(at).map_or_else(Vec::new, &values);
    (0..expected.len().max(got.len())).find_map(|at| {
        let (expected, got) = (of(expected, at), of(got, at));
        let value = |list: &[String], i: usize| list.get(i).map_or("nothing", |value| value).to_owned();
        let pairs = (0..expected.len().max(got.len())).map(|i| (value(&expected, i), value(&got, i)));
        pairs.into_iter().find(|(expected, got)| expected != got).map(|(expected, got)| (at, expected, got))
    })
}

/// Log-probabilities with their bits: the token's own, then those of the likeliest.
fn scores(scores: &TokenLogprobs) -> Vec<String> {
    let top = scores.top.iter().map(|(token, logprob)| format!("{} of token {token}", exact(*logprob)));
    std::iter::once(exact(scores.logprob)).chain(top).collect()
}

fn exact(x: f32) -> String {
    format!("{x} ({:08x})", x.to_bits())
}

#[cfg(test)]
mod tests {
    use nvllm_core::TokenId;

    use super::*;
    use crate::RequestId;

    fn answer(tokens: &[u32], logprobs: &[f32], prompt: &[f32]) -> Answer {
        let score = |&logprob: &f32| TokenLogprobs { logprob, top: vec![(TokenId(7), logprob)] };
        let mut generated = Generated::choices(RequestId(1), 1).remove(0);
        generated.tokens = tokens.iter().map(|&t| TokenId(t)).collect();
        generated.logprobs = logprobs.iter().map(score).collect();
        generated.prompt_logprobs = prompt.iter().map(score).collect();
        Answer { request: 3, choice: 0, stopped_at: None, generated }
    }

    #[test]
    fn the_first_difference_is_found_to_the_bit() {
        let base = || answer(&[1, 2], &[-0.5, -1.0], &[-2.0]);
        let first = |other: &Answer| first_difference(other, Some(&base().generated)).map(|d| d.to_string());
        assert_eq!(first(&base()), None);
        let next = f32::from_bits((-1.0_f32).to_bits() + 1);
        let cases = [
            (answer(&[1, 2], &[-0.5, next], &[-2.0]), "request 3, logprobs of token 1: "),
            (answer(&[1, 3], &[-0.5, next], &[-2.0]), "request 3, token 1: 3 instead of 2"),
            (answer(&[1, 3], &[next, -1.0], &[-2.0]), "request 3, logprobs of token 0: "),
            (answer(&[1], &[-0.5], &[-2.0]), "request 3, token 1: nothing instead of 2"),
            (
                answer(&[3, 2], &[-0.5, -1.0], &[-2.5]),
                "request 3, logprobs of prompt token 0: -2.5 (c0200000)",
            ),
        ];
        for (other, words) in cases {
            let found = first(&other).expect(words);
            assert!(found.starts_with(words), "{found}");
        }
    }

    #[test]
    fn an_answer_that_was_to_stop_is_compared_up_to_there() {
        let whole = answer(&[1, 2, 3], &[-0.5, -1.0, -1.5], &[]);
        let stopped = |tokens: &[u32], logprobs: &[f32]| {
            let answer = Answer { stopped_at: Some(2), ..answer(tokens, logprobs, &[]) };
            first_difference(&answer, Some(&whole.generated)).map(|d| d.to_string())
        };
        assert_eq!(stopped(&[1, 2], &[-0.5, -1.0]), None);
        assert_eq!(stopped(&[1], &[-0.5]).unwrap(), "request 3, token 1: nothing instead of 2");
        let late = stopped(&[1, 2, 3], &[-0.5, -1.0, -1.5]).unwrap();
        assert_eq!(late, "request 3, token 2: 3 instead of nothing");
    }

    #[test]
    fn zeros_of_either_sign_differ() {
        let other = answer(&[1], &[-0.0], &[]);
        let found = first_difference(&other, Some(&answer(&[1], &[0.0], &[]).generated)).unwrap();
        assert!(found.got.starts_with("-0 (80000000)"), "{found}");
    }
}
