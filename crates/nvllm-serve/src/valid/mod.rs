//! Requests that can run, made of what is on the wire: every refusal that needs no tokens is here.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod sampling;
pub(crate) mod unsupported;

use crate::error::ApiError;

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
