//! The embedding of a prompt.

use crate::{EngineError, Event, Finished, RequestId, Result};

/// A prompt's embedding, and what it took.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Embedding {
    /// The request.
    pub id: RequestId,
    /// The hidden state of the prompt's last token after the model's last norm, not normalised to
    /// length 1.
    pub values: Vec<f32>,
    /// How it ended.
    pub finished: Finished,
}

impl Embedding {
    /// One of which nothing has come yet.
    pub(crate) fn new(id: RequestId) -> Self {
        Self { id, values: Vec::new(), finished: Finished::failed("its events broke off") }
    }

    /// Takes in an event of the request.
    pub(crate) fn push(&mut self, event: Event) {
        match event {
            Event::Embedding { values } => self.values = values,
            Event::Finished(finished) => self.finished = finished,
            Event::PromptRow { .. } | Event::Token { .. } => {}
        }
    }

    /// Errors if it failed, or was ended before it came.
    pub(crate) fn checked(self) -> Result<Self> {
        match &self.finished.error {
            Some(reason) => Err(EngineError::Generation { reason: reason.clone() }),
            None if self.values.is_empty() => {
                let reason = format!("it ended before its embedding came ({:?})", self.finished.reason);
                Err(EngineError::Generation { reason })
            }
            None => Ok(self),
        }
    }
}
