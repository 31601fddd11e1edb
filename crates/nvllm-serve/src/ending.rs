//! How an answer ended, in the words of clients.

use axum::http::StatusCode;
use nvllm_core::TokenId;
use nvllm_engine::{FinishReason, Finished};

use crate::error::ApiError;
use crate::wire::chat::StopReason;

/// An end that is an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ending {
    /// `stop` or `length`.
    pub(crate) finish_reason: &'static str,
    /// What it stopped at, if not at the model's own end.
    pub(crate) stop_reason: Option<StopReason>,
}

impl Ending {
    /// Errors if the choice failed, or was ended from outside.
    pub(crate) fn of(finished: &Finished, eos: &[TokenId]) -> Result<Self, ApiError> {
        let (finish_reason, stop_reason) = match finished.reason {
            FinishReason::StopToken(token) => {
                ("stop", (!eos.contains(&token)).then_some(StopReason::Token(token.0)))
            }
            FinishReason::StopString => ("stop", finished.stop_string.clone().map(StopReason::Text)),
            FinishReason::Complete => ("stop", None),
            FinishReason::Length => ("length", None),
            FinishReason::Deadline => ("length", Some(StopReason::Text("timeout".into()))),
            FinishReason::Aborted => {
                let message = "the request was ended before its answer was complete: the server shuts down; send it again";
                return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message));
            }
            // By what the request asks for.
            FinishReason::Barred => {
                let reason = finished.error.as_deref().unwrap_or("no token is left to sample");
                return Err(ApiError::new(StatusCode::BAD_REQUEST, reason));
            }
            FinishReason::Failed | FinishReason::Unusable => {
                let reason = finished.error.as_deref().unwrap_or("for an unknown reason");
                return Err(ApiError::internal(format!("generation failed: {reason}")));
            }
        };
        Ok(Self { finish_reason, stop_reason })
    }
}
