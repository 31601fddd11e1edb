//! Requests that can run, made of what is on the wire: every refusal that needs no tokens is here.

mod blocks;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
mod items;
pub(crate) mod messages;
mod reasoning;
pub(crate) mod responses;
pub(crate) mod sampling;
pub(crate) mod structured;
pub(crate) mod tools;
mod turns;
pub(crate) mod unsupported;

use crate::error::ApiError;
use crate::wire::sampling::SamplingFields;

/// `value` if it is between `least` and `most`.
pub(crate) fn within(
    param: &str,
    value: Option<i64>,
    least: i64,
    most: i64,
) -> Result<Option<usize>, ApiError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            let range =
                if most == i64::MAX { format!("at least {least}") } else { format!("{least} to {most}") };
            Err(ApiError::bad(param, format!("is {value}; give {range}")))
        }
        value => Ok(value.map(|value| value as usize)),
    }
}

/// For routes whose answer is one message: refuses more, and what has no place in it.
fn one_answer(sampling: &SamplingFields) -> Result<(), ApiError> {
    if let Some(n) = sampling.n.filter(|n| *n != 1) {
        return Err(ApiError::bad("n", format!("is {n}; this route gives one answer: leave it out")));
    }
    let asked = [
        ("prompt_logprobs", sampling.prompt_logprobs.is_some()),
        ("return_token_ids", sampling.return_token_ids == Some(true)),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((param, _)) => Err(ApiError::bad(param, "has no place in this route's answer; leave it out")),
        None => Ok(()),
    }
}
