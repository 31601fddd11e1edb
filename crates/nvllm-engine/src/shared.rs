//! What the engine's threads, its handle and its streams share.

use std::sync::{Arc, OnceLock};

use crate::backlog::Backlog;
use crate::failure::Failure;
use crate::stats::Published;
use crate::validator::Validator;
use crate::{EngineError, EngineInfo, Health, Result};

/// Nothing here is waited for while a step runs: each lock is held for a few instructions.
pub(crate) struct Shared {
    pub(crate) failure: Failure,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) stats: Published,
    /// Set once, when loading has succeeded.
    pub(crate) loaded: OnceLock<Loaded>,
}

/// What is known once the model is loaded.
pub(crate) struct Loaded {
    pub(crate) info: EngineInfo,
    pub(crate) validator: Validator,
}

impl Shared {
    pub(crate) fn new(backlog: Backlog) -> Self {
        Self {
            failure: Failure::default(),
            backlog: Arc::new(backlog),
            stats: Published::default(),
            loaded: OnceLock::new(),
        }
    }

    /// Errors if the engine has failed, or while it loads.
    pub(crate) fn loaded(&self) -> Result<&Loaded> {
        self.failure.check()?;
        self.loaded.get().ok_or(EngineError::Loading)
    }

    pub(crate) fn health(&self) -> Health {
        match self.failure.reason() {
            Some(reason) => Health::Failed(reason.into()),
            None if self.backlog.is_draining() => Health::Draining,
            None if self.loaded.get().is_none() => Health::Loading,
            None => Health::Serving,
        }
    }
}
