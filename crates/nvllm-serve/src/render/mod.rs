//! From an engine's events to a route's answer, streamed or whole.
//!
//! A route has one renderer, which makes a *piece* of each event: what is new of one choice. A
//! stream sends the pieces one by one; a whole answer is the pieces joined.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod messages;
mod output;
mod reading;
pub(crate) mod responses;
mod stream;
mod usage;

pub(crate) use reading::Reading;
pub(crate) use stream::{Frames, StreamRenderer, stream};
pub(crate) use usage::UsageCount;

use std::time::{SystemTime, UNIX_EPOCH};

/// What all chunks of an answer carry.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Head {
    pub(crate) fn new(id: String, model: &str) -> Self {
        Self { id, created: now(), model: model.to_owned() }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
