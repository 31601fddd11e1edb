//! What is known of the HTTP request that a task works on: who sent it, what it is called in logs
//! and traces, and what it took.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use nvllm_engine::Event;
use uuid::Uuid;

tokio::task_local! {
    /// The request whose handler runs.
    pub(crate) static CONTEXT: Arc<RequestContext>;
}

/// The request whose handler runs, if a server runs it.
pub(crate) fn current() -> Option<Arc<RequestContext>> {
    CONTEXT.try_with(Arc::clone).ok()
}

/// Characters of a client's request id at most: it is in every line of a log.
const MAX_ID: usize = 128;

/// One HTTP request.
pub(crate) struct RequestContext {
    pub(crate) id: String,
    pub(crate) trace: TraceContext,
    pub(crate) begun: Instant,
    tenant: OnceLock<String>,
    tokens: Mutex<Tokens>,
}

/// What the engine did for a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) prompt: usize,
    pub(crate) output: usize,
    pub(crate) to_first: Option<Duration>,
}

impl RequestContext {
    pub(crate) fn new(headers: &HeaderMap) -> Self {
        Self {
            id: given_id(headers).unwrap_or_else(|| Uuid::new_v4().simple().to_string()),
            trace: TraceContext::new(headers),
            begun: Instant::now(),
            tenant: OnceLock::new(),
            tokens: Mutex::default(),
        }
    }

    /// Whose request it is, if that is known.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.tenant.get().map(String::as_str)
    }

    /// Says whose it is; the first word counts.
    pub(crate) fn set_tenant(&self, name: &str) {
        let _ = self.tenant.set(name.to_owned());
    }

    /// Counts an event of one of its engine requests.
    pub(crate) fn count(&self, event: &Event) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Token { at, .. } => {
                tokens.output += 1;
                tokens.to_first.get_or_insert_with(|| at.saturating_duration_since(self.begun));
            }
            // All choices of a prompt tell its length.
            Event::Finished(finished) if finished.choice == 0 => tokens.prompt += finished.prompt_tokens,
            Event::Finished(_) | Event::PromptRow { .. } | Event::Embedding { .. } => {}
        }
    }

    pub(crate) fn tokens(&self) -> Tokens {
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's id for its request, if it can stand in a log: letters, digits and `-_.:/+=@`.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    let is_sane = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@".contains(c);
    (1..=MAX_ID).contains(&id.len()).then_some(id).filter(|id| id.chars().all(is_sane)).map(str::to_owned)
}

/// Where a request stands in a distributed trace, as W3C's `traceparent` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: u128,
    /// The caller's span.
    pub(crate) parent_id: Option<u64>,
    /// The span of this request.
    pub(crate) span_id: u64,
    /// Whether the caller records the trace; ours are recorded.
    pub(crate) sampled: bool,
}

impl TraceContext {
    fn new(headers: &HeaderMap) -> Self {
        let random = || Uuid::new_v4().as_u128();
        let span_id = (random() >> 64) as u64 | 1;
        let given = headers.get("traceparent").and_then(|value| parse_traceparent(value.to_str().ok()?));
        match given {
            Some((trace_id, parent_id, sampled)) => {
                Self { trace_id, parent_id: Some(parent_id), span_id, sampled }
            }
            None => Self { trace_id: random(), parent_id: None, span_id, sampled: true },
        }
    }

    /// The trace's id as it is written everywhere.
    pub(crate) fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

/// Trace, parent and whether it is sampled of a valid `traceparent`. A version from the future is
/// read as the parts of it that are known today, as the standard asks for.
fn parse_traceparent(value: &str) -> Option<(u128, u64, bool)> {
    let mut parts = value.trim().split('-');
    let mut part = |len: usize| {
        let is_hex = |part: &&str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        parts.next().filter(|part| part.len() == len).filter(is_hex)
    };
    let version = part(2)?;
    let trace_id = u128::from_str_radix(part(32)?, 16).ok()?;
    let parent_id = u64::from_str_radix(part(16)?, 16).ok()?;
    let flags = u8::from_str_radix(part(2)?, 16).ok()?;
    let ends = version != "00" || parts.next().is_none();
    (version != "ff" && ends && trace_id != 0 && parent_id != 0).then_some((
        trace_id,
        parent_id,
        flags & 1 == 1,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &'static str, value: &str) -> RequestContext {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        RequestContext::new(&headers)
    }

    #[test]
    fn a_sane_request_id_is_kept_and_another_replaced() {
        for id in ["abc-1", "req_1.2:3/4+5=6@7", &"x".repeat(128)] {
            assert_eq!(context("x-request-id", id).id, id);
        }
        for id in ["", "a b", "a\"b", "a\u{e9}", &"x".repeat(129)] {
            let made = context("x-request-id", id).id;
            assert!(made.len() == 32 && made != id, "{made}");
        }
    }

    #[test]
    fn a_trace_is_continued_if_its_parent_is_valid() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let given = |value: &str| context("traceparent", value).trace;
        let continued = given(&format!("00-{trace}-b7ad6b7169203331-01"));
        assert_eq!((continued.trace_id(), continued.sampled), (trace.into(), true));
        assert_eq!(continued.parent_id, Some(0xb7ad_6b71_6920_3331));
        assert_ne!(Some(continued.span_id), continued.parent_id);
        assert!(!given(&format!("00-{trace}-b7ad6b7169203331-00")).sampled);
        // Of a later version what is known counts.
        assert_eq!(given(&format!("cc-{trace}-b7ad6b7169203331-01-more")).trace_id(), trace);
        for bad in [
            format!("00-{trace}-b7ad6b7169203331-01-more"),
            format!("ff-{trace}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            format!("00-{trace}-b7ad6b7169203331"),
            "nonsense".into(),
        ] {
            let made = given(&bad);
            assert!(made.parent_id.is_none() && made.trace_id() != trace, "{bad}");
        }
    }
}
