//! What a request may cost before it is understood: bytes of its body, and the time that they take.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::context;
use crate::error::ApiError;

/// Bounds on a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) max_bytes: usize,
    /// From the end of the request's head to the end of its body.
    pub(crate) timeout: Duration,
}

impl BodyLimits {
    /// The request with all of its body in memory.
    ///
    /// Errors if the body is too large, too slow or cut off. What says itself that it is too large
    /// is not read at all.
    pub(crate) async fn read(self, request: Request, log: bool) -> Result<Request, ApiError> {
        let (parts, body) = request.into_parts();
        if body.is_end_stream() {
            return Ok(Request::from_parts(parts, body));
        }
        if body.size_hint().lower() > self.max_bytes as u64 {
            return Err(self.too_large());
        }
        let body = Limited::new(body, self.max_bytes).collect();
        match tokio::time::timeout(self.timeout, body).await {
            Ok(Ok(body)) => {
                let bytes = body.to_bytes();
                if log {
                    let request_id = context::current().map(|context| context.id.clone());
                    tracing::info!(request_id, body = %String::from_utf8_lossy(&bytes), "body");
                }
                Ok(Request::from_parts(parts, Body::from(bytes)))
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(self.too_large()),
            Ok(Err(error)) => Err(ApiError::bad_request("body", format!("the body cannot be read: {error}"))),
            Err(_) => {
                let message =
                    format!("the body took longer than {} seconds to come", self.timeout.as_secs_f64());
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message).about("body"))
            }
        }
    }

    fn too_large(self) -> ApiError {
        let message = format!("the body is larger than {} bytes, which --max-body-size sets", self.max_bytes);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).about("body")
    }
}
