//! What a client is told when something is wrong.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nvllm_core::CoreError;
use nvllm_engine::{EngineError, SchedError};
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds after which a client that was refused for lack of room may try again. Real clients obey
/// whole seconds up to 60, and ignore or give up at more.
const RETRY_AFTER: u32 = 1;

/// A refusal or a failure. [`into_response`](IntoResponse::into_response) makes `OpenAI`'s form of
/// it, on every route; those of another form make theirs of the response's extension.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// What is wrong and what to do, in the client's terms.
    pub(crate) message: String,
    /// The parameter that it is about, as a path into the body: `messages[1].role`.
    pub(crate) param: Option<String>,
    /// Why the server takes nothing now, if that is it.
    pub(crate) refusal: Option<Refusal>,
}

/// Why a request is not taken, whatever it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    QueueFull,
    Loading,
    Draining,
    /// The engine has failed, for good.
    Failed,
    /// All room for bodies is taken.
    BodyMemory,
}

impl Refusal {
    /// Its name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Loading => "loading",
            Self::Draining => "draining",
            Self::Failed => "failed",
            Self::BodyMemory => "body_memory",
        }
    }
}

/// An error's body.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorInfo,
}

/// What is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorInfo {
    /// In words.
    message: String,
    /// The kind, by status: `invalid_request_error`, `rate_limit_error`, ..
    r#type: &'static str,
    /// The parameter that it is about.
    param: Option<String>,
    /// The HTTP status.
    code: u16,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, refusal: None }
    }

    /// A request with a parameter that cannot be met. Never 409 or 501: clients send those again.
    pub(crate) fn bad(param: impl Into<String>, problem: impl AsRef<str>) -> Self {
        let param = param.into();
        let message = format!("{param} {}", problem.as_ref());
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// A request that is well formed and cannot be met, in words that name the parameter.
    pub(crate) fn bad_request(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// A request that is not taken now.
    pub(crate) fn refused(status: StatusCode, refusal: Refusal, message: impl Into<String>) -> Self {
        Self { refusal: Some(refusal), ..Self::new(status, message) }
    }

    /// A request that failed by no fault of its own.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same, about the parameter `param` if none is named yet.
    pub(crate) fn about(self, param: &str) -> Self {
        Self { param: self.param.or_else(|| Some(param.to_owned())), ..self }
    }

    /// The same about `to`, if it is about `from` or a part of it: what one route calls `messages`
    /// is another's `input`.
    pub(crate) fn renamed(mut self, from: &str, to: &str) -> Self {
        let rest = self.param.as_deref().and_then(|param| param.strip_prefix(from));
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(['.', '['])) {
            let param = format!("{to}{rest}");
            // A message that begins otherwise does not name it.
            if let Some(problem) = self.message.strip_prefix(from) {
                self.message = format!("{to}{problem}");
            }
            self.param = Some(param);
        }
        self
    }

    /// The same about the field `to` of an object, if it is about its field `from`.
    pub(crate) fn renamed_field(mut self, from: &str, to: &str) -> Self {
        let object = self.param.as_deref().and_then(|param| param.strip_suffix(from)?.strip_suffix('.'));
        if let Some(object) = object {
            let (was, is) = (format!("{object}.{from}"), format!("{object}.{to}"));
            if let Some(problem) = self.message.strip_prefix(&was) {
                self.message = format!("{is}{problem}");
            }
            self.param = Some(is);
        }
        self
    }

    /// The kind of error that `OpenAI` and Anthropic call it.
    pub(crate) fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        }
    }

    /// Seconds until the client may try again, if that helps.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        let may_pass = matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        (may_pass && self.refusal != Some(Refusal::Failed)).then_some(RETRY_AFTER)
    }

    pub(crate) fn body(&self) -> ErrorBody {
        let Self { status, message, param, .. } = self.clone();
        ErrorBody { error: ErrorInfo { message, r#type: self.kind(), param, code: status.as_u16() } }
    }

    /// The answer with a body of this form.
    pub(crate) fn response(&self, body: &impl Serialize) -> Response {
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.response(&self.body());
        // For the routes that have another form.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::QueueFull { .. } => {
                Self::refused(StatusCode::TOO_MANY_REQUESTS, Refusal::QueueFull, message)
            }
            EngineError::Loading => Self::refused(StatusCode::SERVICE_UNAVAILABLE, Refusal::Loading, message),
            EngineError::Draining => {
                Self::refused(StatusCode::SERVICE_UNAVAILABLE, Refusal::Draining, message)
            }
            // Not 503, which says that waiting helps.
            EngineError::Stopped { .. } => {
                Self::refused(StatusCode::INTERNAL_SERVER_ERROR, Refusal::Failed, message)
            }
            // As the wire calls it.
            EngineError::RequestField { field: "deadline", .. } => {
                Self::bad("timeout", "was over before the request could be taken; give more")
            }
            EngineError::RequestField { field, .. }
            | EngineError::Core(CoreError::BadSampling { field, .. })
            | EngineError::Option { option: field, .. } => Self::bad_request(field, message),
            EngineError::EmptyStopString { .. } => Self::bad_request("stop", message),
            EngineError::PromptToken { .. } => Self::bad_request("prompt", message),
            EngineError::ChatRejected { .. } | EngineError::ChatTemplate { .. } => {
                Self::bad_request("messages", message)
            }
            EngineError::Request(SchedError::BadChoices { .. }) => Self::bad_request("n", message),
            // About the prompt, whatever the route calls it.
            EngineError::Request(_) | EngineError::Encode { .. } => {
                Self::new(StatusCode::BAD_REQUEST, message)
            }
            _ => Self::internal(message),
        }
    }
}
