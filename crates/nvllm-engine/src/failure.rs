//! Why the engine can serve no more, for all who wait for it.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use crate::EngineError;

/// Shared by the device thread, the handle and every stream; empty while all is well.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<OnceLock<String>>);

impl Failure {
    /// Notes the reason; the first one stays.
    pub(crate) fn note(&self, reason: String) {
        let _ = self.0.set(reason);
    }

    /// Notes a panic with what it said.
    pub(crate) fn note_panic(&self, payload: &(dyn Any + Send)) {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        self.note(format!("its thread panicked ({})", text.unwrap_or("no reason was given")));
    }

    /// Errors once the engine has failed.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        match self.0.get() {
            Some(reason) => Err(EngineError::Stopped { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// The end of the engine, with the reason or else `otherwise`.
    pub(crate) fn stopped(&self, otherwise: &str) -> EngineError {
        let unknown = EngineError::Stopped { reason: otherwise.into() };
        self.check().err().unwrap_or(unknown)
    }
}
