//! Who may come in: a middleware that asks for an API key.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::context;
use crate::error::ApiError;
use crate::keys::{Access, ApiKeys};
use crate::routes::page;

/// Paths for which no key is asked: what load balancers and monitoring look at. The page asks for
/// one itself.
const OPEN: [&str; 5] = ["/health", "/health/ready", "/ping", "/version", "/metrics"];

/// Lets through what has a key, or needs none. Nothing of a body is read before.
pub(crate) async fn check(State(keys): State<Arc<ApiKeys>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !keys.are_needed() || OPEN.contains(&path) || page::has(path) {
        return next.run(request).await;
    }
    match given_key(request.headers()).map_or(Access::Denied, |key| keys.check(key)) {
        Access::Denied => {
            let message = "the API key is missing or wrong; send one as `Authorization: Bearer KEY` or `x-api-key: KEY`";
            let mut response = ApiError::new(StatusCode::UNAUTHORIZED, message).into_response();
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            response
        }
        Access::Granted(name) => {
            if let (Some(name), Some(context)) = (name, context::current()) {
                context.set_tenant(&name);
            }
            next.run(request).await
        }
    }
}

/// The key as `OpenAI`'s clients send it, else as Anthropic's do.
fn given_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())
}
