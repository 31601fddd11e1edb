//! What is said about each request: its id to the client, one line to the log, its span to the
//! collector of traces.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, SizeHint};

use crate::context::{CONTEXT, RequestContext};
use crate::routes::page;
use crate::server::{Busy, ServerOptions};
use crate::traces::Span;

/// The header that names a request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Paths that are asked for again and again and say nothing of the work, as the page does.
const PROBES: [&str; 5] = ["/health", "/health/ready", "/ping", "/metrics", "/load"];

/// Status of a request whose client went before it was answered, as nginx calls it.
const CLIENT_GONE: u16 = 499;

/// Names the request, runs it, and says how it went once the last byte is on its way.
pub(crate) async fn observe(
    State(options): State<Arc<ServerOptions>>,
    request: Request,
    next: Next,
) -> Response {
    let context = Arc::new(RequestContext::new(request.headers()));
    let mut record = Record {
        context: Arc::clone(&context),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        retries: retries(&request),
        status: CLIENT_GONE,
        options,
        is_whole: false,
        _busy: request.extensions().get().cloned(),
    };
    let mut response = CONTEXT.scope(Arc::clone(&context), next.run(request)).await;
    record.status = response.status().as_u16();
    if let Ok(id) = HeaderValue::from_str(&context.id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.map(|body| Body::new(Observed { body: UnsyncBoxBody::new(body), record }))
}

/// How often `OpenAI`'s clients have tried this before.
fn retries(request: &Request) -> u64 {
    let header = request.headers().get("x-stainless-retry-count");
    header.and_then(|count| count.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// What is known of a request; said when it is dropped.
struct Record {
    context: Arc<RequestContext>,
    method: Method,
    path: String,
    retries: u64,
    status: u16,
    options: Arc<ServerOptions>,
    /// Whether all of the answer was sent.
    is_whole: bool,
    /// The connection that waits for the answer.
    _busy: Option<Busy>,
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.context.begun.elapsed();
        let is_probe = PROBES.contains(&self.path.as_str()) || page::has(&self.path);
        if self.options.log_requests {
            self.log(elapsed, is_probe);
        }
        if let Some(traces) = &self.options.traces
            && self.context.trace.sampled
            && !is_probe
        {
            traces.send(&self.span(elapsed));
        }
    }
}

impl Record {
    fn log(&self, elapsed: Duration, is_probe: bool) {
        let Self { context, method, path, status, .. } = self;
        let ms = (elapsed.as_secs_f64() * 1e4).round() / 10.0;
        if is_probe {
            return tracing::debug!(%method, path, status, ms, "request");
        }
        let tokens = self.tokens();
        tracing::info!(
            %method,
            path,
            status,
            ms,
            request_id = context.id,
            trace_id = context.trace.parent_id.map(|_| context.trace.trace_id()),
            tenant = context.tenant(),
            prompt_tokens = tokens.map(|(prompt, _)| prompt),
            output_tokens = tokens.map(|(_, output)| output),
            retry = (self.retries > 0).then_some(self.retries),
            cut_off = (!self.is_whole).then_some(true),
            "request"
        );
    }

    /// Tokens of prompt and output, if the engine had anything to do with the request.
    fn tokens(&self) -> Option<(usize, usize)> {
        let tokens = self.context.tokens();
        (tokens.prompt > 0 || tokens.output > 0).then_some((tokens.prompt, tokens.output))
    }

    fn span(&self, duration: Duration) -> Span {
        let trace = &self.context.trace;
        Span {
            trace_id: trace.trace_id,
            id: trace.span_id,
            parent_id: trace.parent_id,
            method: self.method.to_string(),
            path: self.path.clone(),
            status: self.status,
            request_id: self.context.id.clone(),
            duration,
            tokens: self.tokens(),
            to_first_token: self.context.tokens().to_first,
        }
    }
}

/// An answer's body, with the record of its request until it is sent or given up.
struct Observed {
    body: UnsyncBoxBody<Bytes, axum::Error>,
    record: Record,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.record.is_whole = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
