//! Spans of requests, sent to an OpenTelemetry collector: OTLP over HTTP in its JSON form, one
//! `POST` for many spans, from a thread of its own. No request waits for it: spans that a slow
//! collector does not take are dropped, and it is said how many.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Spans that wait at most.
const QUEUE: usize = 4096;
/// Spans in one message at most.
const BATCH: usize = 512;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take for a message.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One request, as its span tells it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace_id: u128,
    pub(crate) id: u64,
    pub(crate) parent_id: Option<u64>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) request_id: String,
    pub(crate) duration: Duration,
    /// Of the prompt and of the output.
    pub(crate) tokens: Option<(usize, usize)>,
    pub(crate) to_first_token: Option<Duration>,
}

impl Span {
    /// The span as OTLP writes it, if the request ended at `end`.
    fn json(&self, end: SystemTime) -> Value {
        let nanos = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()).to_string()
        };
        let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        // 64-bit integers are strings in protobuf's JSON.
        let int = |key: &str, value: usize| json!({ "key": key, "value": { "intValue": value.to_string() } });
        let seconds = |key: &str, value: Duration| json!({ "key": key, "value": { "doubleValue": value.as_secs_f64() } });
        let mut attributes = vec![
            text("http.request.method", &self.method),
            text("url.path", &self.path),
            int("http.response.status_code", self.status.into()),
            text("gen_ai.request.id", &self.request_id),
            seconds("gen_ai.latency.e2e", self.duration),
        ];
        if let Some((prompt, output)) = self.tokens {
            attributes.push(int("gen_ai.usage.prompt_tokens", prompt));
            attributes.push(int("gen_ai.usage.completion_tokens", output));
        }
        attributes
            .extend(self.to_first_token.map(|time| seconds("gen_ai.latency.time_to_first_token", time)));
        let mut span = json!({
            "traceId": format!("{:032x}", self.trace_id),
            "spanId": format!("{:016x}", self.id),
            "name": format!("{} {}", self.method, self.path),
            // A server's span.
            "kind": 2,
            "startTimeUnixNano": nanos(end.checked_sub(self.duration).unwrap_or(UNIX_EPOCH)),
            "endTimeUnixNano": nanos(end),
            "attributes": attributes,
        });
        if let Some(parent) = self.parent_id {
            span["parentSpanId"] = format!("{parent:016x}").into();
        }
        if self.status >= 500 {
            span["status"] = json!({ "code": 2 });
        }
        span
    }
}

/// Where spans go.
#[derive(Debug)]
pub struct Traces {
    /// None once it ends.
    spans: Mutex<Option<SyncSender<Value>>>,
    dropped: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Traces {
    /// Spans go to this collector; `/v1/traces` if the URL has no path.
    ///
    /// Errors if it is no URL, or the thread cannot be started.
    pub fn new(url: &str) -> io::Result<Self> {
        let url = endpoint(url)?;
        let (spans, queue) = sync_channel(QUEUE);
        let dropped = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&dropped);
        let thread = std::thread::Builder::new().name("nvllm-traces".into());
        let thread = thread.spawn(move || export(&url, &queue, &counted))?;
        Ok(Self { spans: Mutex::new(Some(spans)), dropped, thread: Mutex::new(Some(thread)) })
    }

    /// Sends a span of a request that has ended just now.
    pub(crate) fn send(&self, span: &Span) {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken =
            spans.as_ref().is_some_and(|spans| spans.try_send(span.json(SystemTime::now())).is_ok());
        if !is_taken {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends what waits, for as long as one message may take.
    pub(crate) fn finish(&self) {
        drop(self.spans.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let until = Instant::now() + TIMEOUT;
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn endpoint(url: &str) -> io::Result<String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
        let problem =
            format!("--otlp-traces-endpoint {url} is no URL; give one, as in http://localhost:4318");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    };
    let has_path = rest.trim_end_matches('/').contains('/');
    Ok(if has_path { url.to_owned() } else { format!("{}/v1/traces", url.trim_end_matches('/')) })
}

/// Sends spans until there will be no more.
fn export(url: &str, queue: &Receiver<Value>, dropped: &AtomicUsize) {
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build();
    let agent = ureq::Agent::new_with_config(config);
    // A collector that is down is told of once, and again once it was there.
    let mut is_down = false;
    while let Some(spans) = batch(queue) {
        let num_spans = spans.len();
        let body = json!({ "resourceSpans": [{
            "resource": { "attributes": [
                { "key": "service.name", "value": { "stringValue": "nvllm" } },
                { "key": "service.version", "value": { "stringValue": env!("CARGO_PKG_VERSION") } },
            ] },
            "scopeSpans": [{ "scope": { "name": "nvllm" }, "spans": spans }],
        }] });
        let sent = agent.post(url).header("content-type", "application/json").send(body.to_string());
        match sent {
            Ok(_) => {
                is_down = false;
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    tracing::warn!("{lost} traces were dropped: {url} was down or is too slow");
                }
            }
            Err(error) => {
                dropped.fetch_add(num_spans, Ordering::Relaxed);
                if !is_down {
                    tracing::warn!("traces cannot be sent to {url}, and are dropped until they can: {error}");
                }
                is_down = true;
            }
        }
    }
}

/// The next spans; none once there will be no more.
fn batch(queue: &Receiver<Value>) -> Option<Vec<Value>> {
    let mut spans = vec![queue.recv().ok()?];
    let until = Instant::now() + DELAY;
    while spans.len() < BATCH {
        match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(span) => spans.push(span),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> Span {
        Span {
            trace_id: 1,
            id: 1,
            parent_id: None,
            method: "POST".into(),
            path: "/v1/completions".into(),
            status: 200,
            request_id: "a".into(),
            duration: Duration::from_millis(1),
            tokens: None,
            to_first_token: None,
        }
    }

    /// The collector takes connections and never reads: a span that waited for it would wait here.
    #[test]
    fn no_span_waits_for_a_collector_that_does_not_answer() {
        let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let traces = Traces::new(&format!("http://{}", collector.local_addr().unwrap())).unwrap();
        let num = 2 * (QUEUE + BATCH);
        (0..num).for_each(|_| traces.send(&span()));
        // One message is on its way, and the queue is full.
        assert!(traces.dropped.load(Ordering::Relaxed) >= num - QUEUE - BATCH);
    }

    #[test]
    fn a_collector_is_named_with_or_without_the_path() {
        for (given, url) in [
            ("http://here:4318", "http://here:4318/v1/traces"),
            ("http://here:4318/", "http://here:4318/v1/traces"),
            ("https://here/otlp/v1/traces", "https://here/otlp/v1/traces"),
        ] {
            assert_eq!(endpoint(given).unwrap(), url);
        }
        for bad in ["here:4318", "http://", "grpc://here:4317"] {
            assert!(endpoint(bad).unwrap_err().to_string().starts_with("--otlp-traces-endpoint"), "{bad}");
        }
    }
}
