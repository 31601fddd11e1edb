//! Answers by route and status.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::Metrics;
use crate::error::ApiError;

/// Routes that are asked all the time by what watches a server, and say nothing of its work.
const PROBES: [&str; 7] = ["/health", "/health/ready", "/ping", "/version", "/metrics", "/load", "/v1/loads"];

/// The status of what has none: the client went away before.
const GONE: &str = "499";

/// Counts the answer to a request, whatever becomes of it.
pub(crate) async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    // The path as the table of routes has it: a client cannot make up labels.
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let handler = path.unwrap_or("none").to_owned();
    if PROBES.contains(&&*handler) {
        return next.run(request).await;
    }
    let mut counted =
        Counted { metrics: Arc::clone(&metrics), method: name(request.method()), handler, status: None };
    let response = next.run(request).await;
    let status = response.status();
    counted.status = Some(status);
    // By what made it, and not by its status: an answer that the end of the server cuts off is no
    // refusal.
    if let Some(refusal) = response.extensions().get::<ApiError>().and_then(|error| error.refusal) {
        metrics.refusals.with_label_values(&[refusal.as_str()]).inc();
    }
    response
}

/// A request that is counted when it is dropped, with the status that it has by then.
struct Counted {
    metrics: Arc<Metrics>,
    method: &'static str,
    handler: String,
    status: Option<StatusCode>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let status = self.status.as_ref().map_or(GONE, StatusCode::as_str);
        self.metrics.answers.with_label_values(&[self.method, &self.handler, status]).inc();
    }
}

/// A method that is known: a client may send any word.
fn name(method: &Method) -> &'static str {
    let known = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::HEAD, "HEAD"),
        (Method::PUT, "PUT"),
        (Method::PATCH, "PATCH"),
        (Method::DELETE, "DELETE"),
        (Method::OPTIONS, "OPTIONS"),
    ];
    known.iter().find(|(other, _)| other == method).map_or("other", |(_, name)| name)
}
