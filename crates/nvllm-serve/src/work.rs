//! Work on bodies: JSON, templates, tokens. What a large one takes would hold up every stream of
//! the thread that does it, so threads of their own do it, as many as there are CPUs.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::available_parallelism;

use axum::body::Bytes;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::error::ApiError;

/// Bodies up to this many bytes are worked on in place: that takes less than a few milliseconds.
const MAX_IN_PLACE: usize = 64 << 10;

/// The right to work on large bodies, for as many at once as there are CPUs.
#[derive(Clone, Debug)]
pub(crate) struct Workers(Arc<Semaphore>);

impl Default for Workers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(available_parallelism().map_or(1, NonZero::get))))
    }
}

impl Workers {
    /// What `work` makes of a body, wherever that is done. The body is dropped before this returns,
    /// and whatever `work` keeps of it should be small: an answer may take minutes.
    ///
    /// The request's context, which belongs to its task, is not there in `work`.
    pub(crate) async fn run<T, W>(&self, bytes: Bytes, work: W) -> Result<T, ApiError>
    where
        T: Send + 'static,
        W: FnOnce(&[u8]) -> Result<T, ApiError> + Send + 'static,
    {
        if bytes.len() <= MAX_IN_PLACE {
            return work(&bytes);
        }
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let worked = spawn_blocking(move || {
            // Not before the work is done, even if the client is gone by then.
            let _permit = permit;
            work(&bytes)
        });
        match worked.await {
            Ok(made) => made,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => Err(ApiError::internal("the server ends, and the request was not begun")),
        }
    }
}
