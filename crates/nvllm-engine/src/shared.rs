//! What the engine's threads, its handle and its streams share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::backlog::Backlog;
use crate::failure::Failure;
use crate::stats::Published;
use crate::validator::Validator;
use crate::{EngineError, EngineInfo, Health, LoadProgress, Result};

/// Nothing here is waited for while a step runs: each lock is held for a few instructions.
pub(crate) struct Shared {
    pub(crate) failure: Failure,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) stats: Published,
    /// Set once, when loading has succeeded.
    pub(crate) loaded: OnceLock<Loaded>,
    /// Parts in 10,000 of the weights that were read.
    read: AtomicU32,
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
            read: AtomicU32::new(0),
        }
    }

    /// Notes how much of the weights was read.
    pub(crate) fn note_progress(&self, LoadProgress { done, total }: LoadProgress) {
        let share = done as f64 / total.max(1) as f64;
        self.read.store((share * 1e4) as u32, Ordering::Relaxed);
    }

    /// The share of loading that is done: all of it only once requests are taken.
    pub(crate) fn load_progress(&self) -> f32 {
        if self.loaded.get().is_some() {
            return 1.0;
        }
        (self.read.load(Ordering::Relaxed) as f32 / 1e4).min(0.99)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadOptions;

    #[test]
    fn loading_is_done_when_requests_are_taken_and_not_when_all_is_read() {
        let shared = Shared::new(Backlog::new(&LoadOptions::default()).unwrap());
        let mut shown = Vec::new();
        for done in [0, 42, 100] {
            shared.note_progress(LoadProgress { done, total: 100 });
            shown.push(shared.load_progress());
        }
        assert_eq!(shown, [0.0, 0.42, 0.99]);
        shared.note_progress(LoadProgress { done: 0, total: 0 });
        assert_eq!(shared.load_progress(), 0.0);
    }
}
