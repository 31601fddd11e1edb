//! What a request may cost before it is understood: bytes of its body, and the time that they take.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::context;
use crate::error::{ApiError, Refusal};
use crate::server::ServerOptions;

/// Bodies of the largest size that are in memory at once, at most.
const LARGEST_AT_ONCE: usize = 8;

/// Bounds on bodies: on each, and on all that are in memory.
#[derive(Clone, Debug)]
pub(crate) struct BodyLimits {
    max_bytes: usize,
    /// From the end of the request's head to the end of its body.
    timeout: Duration,
    /// Whether bodies are logged.
    log: bool,
    /// Bytes that there is room for.
    room: Arc<Semaphore>,
}

/// A request's body in memory, under the limits that came with the request. It counts against the
/// common one until the last part of it is dropped.
pub(crate) struct Payload(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for Payload {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let limits = request.extensions().get::<BodyLimits>().cloned();
        // Whoever calls the routes without a server has no limits to give.
        let limits = limits.unwrap_or_else(|| BodyLimits::new(&ServerOptions::default()));
        limits.read(request.into_body()).await.map(Self)
    }
}

/// Bytes with the room that they take.
struct Held {
    bytes: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyLimits {
    pub(crate) fn new(options: &ServerOptions) -> Self {
        let room = options.max_body_size.saturating_mul(LARGEST_AT_ONCE).min(Semaphore::MAX_PERMITS);
        Self {
            max_bytes: options.max_body_size,
            timeout: options.body_timeout,
            log: options.log_prompts,
            room: Arc::new(Semaphore::new(room)),
        }
    }

    /// All of a body.
    ///
    /// Errors if it is too large, too slow or cut off, or if there is no room for it. What says
    /// itself that it is too large is not read at all.
    async fn read(&self, body: Body) -> Result<Bytes, ApiError> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        if body.size_hint().lower() > self.max_bytes as u64 {
            return Err(self.too_large());
        }
        let Ok(read) = tokio::time::timeout(self.timeout, self.collect(body)).await else {
            let message = format!("the body took longer than {} seconds to come", self.timeout.as_secs_f64());
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message).about("body"));
        };
        let bytes = read?;
        if self.log {
            let request_id = context::current().map(|context| context.id.clone());
            tracing::info!(request_id, body = %String::from_utf8_lossy(&bytes), "body");
        }
        Ok(bytes)
    }

    /// Takes room for what comes and not for what is announced: whoever announces much and sends
    /// nothing is in nobody's way. For the same reason nobody waits for room, which slow clients
    /// may hold for long.
    async fn collect(&self, mut body: Body) -> Result<Bytes, ApiError> {
        let mut held = Held { bytes: Vec::new(), permit: None };
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|e| ApiError::bad_request("body", format!("the body cannot be read: {e}")))?;
            // Else they are trailers.
            let Ok(data) = frame.into_data() else { continue };
            if held.bytes.len() + data.len() > self.max_bytes {
                return Err(self.too_large());
            }
            let permit = self.take(data.len())?;
            match &mut held.permit {
                Some(held) => held.merge(permit),
                None => held.permit = Some(permit),
            }
            held.bytes.extend_from_slice(&data);
        }
        Ok(Bytes::from_owner(held))
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let room = Arc::clone(&self.room);
        let permit = u32::try_from(bytes).ok().and_then(|bytes| room.try_acquire_many_owned(bytes).ok());
        permit.ok_or_else(|| {
            let message = "the server holds as many bytes of requests as it may; send it again later";
            ApiError::refused(StatusCode::SERVICE_UNAVAILABLE, Refusal::BodyMemory, message)
        })
    }

    fn too_large(&self) -> ApiError {
        let message = format!("the body is larger than {} bytes, which --max-body-size sets", self.max_bytes);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).about("body")
    }
}
