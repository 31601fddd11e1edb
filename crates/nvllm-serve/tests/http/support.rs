//! A server whose tokens are scripted, and calls to it without a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request as HttpRequest, StatusCode};
use http_body_util::BodyExt as _;
use nvllm_core::{Activations, BackendInfo, Limits, MemoryReport, RequestLimits, TokenId, TokenLogprobs};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{
    EngineError, EngineInfo, EngineStats, Event, EventSink, FinishReason, Finished, Health, Model, Request,
    RequestId,
};
use nvllm_serve::{Generator, ServedOptions};
use serde_json::Value;
use tower::ServiceExt as _;

/// The demo model: its tokenizer and its chat template; nothing runs it here.
pub(crate) static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
    Model::open(&ModelFiles::in_directory(&dir).unwrap()).unwrap()
});

/// The tokens of a text.
pub(crate) fn tokens(text: &str) -> Vec<TokenId> {
    let ids = MODEL.tokenizer().unwrap().encode(text, nvllm_engine::text::EncodeOptions::default());
    ids.unwrap().into_iter().map(TokenId).collect()
}

/// What a scripted engine does with each request.
#[derive(Clone)]
pub(crate) struct Script {
    /// What every answer says.
    pub(crate) text: String,
    pub(crate) reason: FinishReason,
    /// What it fails with, if `reason` says so.
    pub(crate) error: Option<String>,
    /// The refusal of every request.
    pub(crate) refusal: Option<fn() -> EngineError>,
    /// Whether an answer has no end until it is aborted.
    pub(crate) endless: bool,
    pub(crate) health: Health,
    /// Whether it says that no request can be taken.
    pub(crate) full: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            text: "It is Paris.".into(),
            reason: FinishReason::StopToken(MODEL.eos[0]),
            error: None,
            refusal: None,
            endless: false,
            health: Health::Serving,
            full: false,
        }
    }
}

/// An engine that answers by a script, and keeps what it was asked for.
pub(crate) struct Scripted {
    pub(crate) script: Script,
    pub(crate) asked: Mutex<Vec<Request>>,
    /// Requests without an end, by id.
    pub(crate) open: Mutex<BTreeMap<u64, Box<dyn EventSink>>>,
    pub(crate) aborted: Mutex<Vec<u64>>,
    /// Tenants that were made known.
    pub(crate) tenants: Mutex<BTreeSet<String>>,
    /// What it says that it has counted.
    pub(crate) stats: Mutex<EngineStats>,
    /// How often its prefix cache was reset.
    pub(crate) num_resets: AtomicU64,
    info: EngineInfo,
    draining: AtomicBool,
    next_id: AtomicU64,
}

impl Scripted {
    pub(crate) fn new(script: Script) -> Arc<Self> {
        Arc::new(Self {
            script,
            asked: Mutex::default(),
            open: Mutex::default(),
            aborted: Mutex::default(),
            tenants: Mutex::default(),
            stats: Mutex::default(),
            num_resets: AtomicU64::new(0),
            info: info(),
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
        })
    }

    /// What the last request asked for.
    pub(crate) fn last(&self) -> Request {
        self.asked.lock().unwrap().last().unwrap().clone()
    }

    /// 3, 4, the number of tokens, and zeros; nothing if it fails.
    fn embed(&self, request: &Request, sink: &mut dyn EventSink) {
        let error = self.script.error.clone();
        if error.is_none() {
            let mut values = vec![0.0; MODEL.spec.hidden_size().unwrap()];
            values[..3].copy_from_slice(&[3.0, 4.0, request.prompt.len() as f32]);
            let _ = sink.send(Event::Embedding { values });
        }
        let reason = if error.is_some() { FinishReason::Failed } else { FinishReason::Length };
        let _ = sink.send(Event::Finished(finished(request, 0, reason, error, 0)));
    }

    fn answer(&self, request: &Request, choice: usize, sink: &mut dyn EventSink) {
        let tokenizer = MODEL.tokenizer().unwrap();
        let most = request.max_tokens.unwrap_or(usize::MAX);
        let all = tokens(&self.script.text);
        let said = &all[..most.min(all.len())];
        for (at, &token) in said.iter().enumerate() {
            // No number that f32 and f64 write alike.
            let logprob = -0.3 - at as f32;
            let top = [(token, logprob), (TokenId(0), logprob - 1.0)].into_iter();
            let logprobs =
                request.logprobs.map(|k| TokenLogprobs { logprob, top: top.take(usize::from(k)).collect() });
            let text = tokenizer.decode(&[token.0], true);
            let event = Event::Token { choice, token, text, logprobs, logits: None, at: Instant::now() };
            let _ = sink.send(event);
        }
        let reason = if said.len() < all.len() { FinishReason::Length } else { self.script.reason };
        let error = self.script.error.clone();
        let _ = sink.send(Event::Finished(finished(request, choice, reason, error, said.len())));
    }
}

/// An end.
pub(crate) fn finished(
    request: &Request,
    choice: usize,
    reason: FinishReason,
    error: Option<String>,
    output_tokens: usize,
) -> Finished {
    Finished {
        choice,
        reason,
        stop_string: (reason == FinishReason::StopString).then(|| request.stop[0].clone()),
        error,
        text: String::new(),
        prompt_tokens: request.prompt.len(),
        cached_tokens: 1,
        output_tokens,
        queue_time: Some(Duration::from_millis(1)),
        time_to_first_token: Some(Duration::from_millis(2)),
        decode_time: Duration::from_millis(3),
    }
}

/// What a loaded engine says of itself: room for all that the tests ask for.
fn info() -> EngineInfo {
    EngineInfo {
        backend: BackendInfo {
            name: "scripted".into(),
            device: "none".into(),
            memory_bytes: 1 << 30,
            memory_share: 0.5,
            seqs: 8,
            step_tokens: 512,
            max_in_flight: 1,
            driver: None,
            clocks_mhz: None,
        },
        limits: Limits { step_tokens: 512, kv_bytes: 1 << 20, ..Limits::new(Activations::F32, 8, 4096) },
        weights: Vec::new(),
        request_limits: RequestLimits::default(),
        memory: MemoryReport { weights: 0, kv: 1 << 20, arena: 0, scratch: 0 },
    }
}

impl Generator for Scripted {
    fn health(&self) -> Health {
        let is_draining = self.draining.load(Ordering::SeqCst);
        if is_draining { Health::Draining } else { self.script.health.clone() }
    }

    fn is_full(&self) -> bool {
        self.script.full
    }

    fn info(&self) -> Option<&EngineInfo> {
        (self.script.health != Health::Loading).then_some(&self.info)
    }

    fn stats(&self) -> EngineStats {
        *self.stats.lock().unwrap()
    }

    fn add_tenant(&self, name: &str) {
        self.tenants.lock().unwrap().insert(name.to_owned());
    }

    fn submit(&self, request: Request, mut sink: Box<dyn EventSink>) -> Result<RequestId, EngineError> {
        if let Some(refusal) = self.script.refusal {
            return Err(refusal());
        }
        if self.draining.load(Ordering::SeqCst) {
            return Err(EngineError::Draining);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if request.embed {
            self.embed(&request, &mut *sink);
            self.asked.lock().unwrap().push(request);
            return Ok(RequestId::from_number(id));
        }
        self.asked.lock().unwrap().push(request.clone());
        if request.prompt_logprobs.is_some() {
            for index in 0..request.prompt.len().saturating_sub(1) {
                let top = vec![(request.prompt[index + 1], -0.7)];
                let logprobs = Some(TokenLogprobs { logprob: -0.7, top });
                let _ = sink.send(Event::PromptRow { index, logprobs, logits: None });
            }
        }
        if self.script.endless {
            self.open.lock().unwrap().insert(id, sink);
            return Ok(RequestId::from_number(id));
        }
        for choice in 0..request.n.unwrap_or(1) {
            self.answer(&request, choice, &mut *sink);
        }
        Ok(RequestId::from_number(id))
    }

    fn abort(&self, id: RequestId) {
        self.aborted.lock().unwrap().push(id.get());
        let sink = self.open.lock().unwrap().remove(&id.get());
        let request = self.asked.lock().unwrap().get(id.get() as usize - 1).cloned();
        if let (Some(mut sink), Some(request)) = (sink, request) {
            let _ = sink.send(Event::Finished(finished(&request, 0, FinishReason::Aborted, None, 0)));
        }
    }

    fn reset_prefix_cache(&self) {
        self.num_resets.fetch_add(1, Ordering::Relaxed);
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }
}

/// A server with this script.
pub(crate) fn server(script: Script) -> (Router, Arc<Scripted>) {
    served(script, ServedOptions { names: vec!["tiny".into()], embeddings: true, ..ServedOptions::default() })
}

/// The same with these options.
pub(crate) fn served(script: Script, options: ServedOptions) -> (Router, Arc<Scripted>) {
    let engine = Scripted::new(script);
    let generator: Arc<dyn Generator> = engine.clone();
    (nvllm_serve::router(&MODEL, options, generator).unwrap(), engine)
}

/// An answer as it was on the wire.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

/// The text of a request's prompt.
pub(crate) fn prompt_of(request: &nvllm_engine::Request) -> String {
    let ids: Vec<u32> = request.prompt.iter().map(|token| token.0).collect();
    MODEL.tokenizer().unwrap().decode(&ids, false)
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes.to_vec()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The data of a stream's events; fails if one does not end with a blank line.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = self.text();
        assert!(text.ends_with("\n\n"), "{text}");
        text.trim_end_matches("\n\n").split("\n\n").map(str::to_owned).collect()
    }

    /// The data of a stream's named events, each of which says its name as `type`.
    pub(crate) fn named_events(&self) -> Vec<Value> {
        assert_eq!(self.headers["content-type"], "text/event-stream", "{}", self.text());
        let data = |event: &String| {
            let (name, data) = event.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
            data
        };
        self.events().iter().map(data).collect()
    }

    /// The chunks of a stream, without its `[DONE]`, which must be there.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("data: [DONE]"), "{}", self.text());
        let data = events.iter().map(|event| event.strip_prefix("data: ").unwrap());
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

/// Sends a request and reads all of the answer.
pub(crate) async fn call(router: &Router, request: HttpRequest<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, bytes }
}

pub(crate) async fn get(router: &Router, path: &str) -> Answer {
    call(router, HttpRequest::get(path).body(Body::empty()).unwrap()).await
}

pub(crate) async fn post(router: &Router, path: &str, body: &Value) -> Answer {
    post_bytes(router, path, body.to_string()).await
}

pub(crate) async fn post_bytes(router: &Router, path: &str, body: impl Into<Body>) -> Answer {
    let request = HttpRequest::post(path).header("content-type", "application/json");
    call(router, request.body(body.into()).unwrap()).await
}
