//! Why the engine can serve no more, for all who wait for it.

use std::any::Any;
use std::sync::OnceLock;

use crate::EngineError;

/// Shared by the engine's threads, the handle and every stream; empty while all is well.
///
/// It is noted before anyone hears of it, so that whoever is told that a request failed, and asks,
/// finds the reason.
#[derive(Debug, Default)]
pub(crate) struct Failure(OnceLock<String>);

impl Failure {
    /// Notes the reason; the first one stays.
    pub(crate) fn note(&self, reason: String) {
        let _ = self.0.set(reason);
    }

    /// Notes that `thread` panicked, with what it said.
    pub(crate) fn note_panic(&self, thread: &str, payload: &(dyn Any + Send)) {
        self.note(format!("its {thread} thread panicked ({})", panic_message(payload)));
    }

    /// The reason, once there is one.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Errors once the engine has failed.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        match self.reason() {
            Some(reason) => Err(EngineError::Stopped { reason: reason.into() }),
            None => Ok(()),
        }
    }

    /// The end of the engine, with the reason or else `otherwise`.
    pub(crate) fn stopped(&self, otherwise: &str) -> EngineError {
        EngineError::Stopped { reason: self.reason().unwrap_or(otherwise).into() }
    }
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason was given")
}
