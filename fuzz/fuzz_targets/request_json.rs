//! Any bytes as the body of any route: an answer or a refusal in JSON, never a fault of the server.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request as HttpRequest;
use libfuzzer_sys::fuzz_target;
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{EngineError, EngineInfo, EngineStats, EventSink, Health, Model, Request, RequestId};
use nvllm_serve::{Generator, ServedOptions};
use tower::ServiceExt as _;

const PATHS: [&str; 8] = [
    "/v1/chat/completions",
    "/v1/chat/completions/render",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
];

/// An engine whose queue is full: what comes so far is a request that could run.
struct Full;

impl Generator for Full {
    fn health(&self) -> Health {
        Health::Serving
    }

    fn info(&self) -> Option<&EngineInfo> {
        None
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    fn add_tenant(&self, _: &str) {}

    fn submit(&self, _: Request, _: Box<dyn EventSink>) -> Result<RequestId, EngineError> {
        Err(EngineError::QueueFull { requests: 1, max_requests: 1 << 20, tokens: 1, max_tokens: 1 })
    }

    fn abort(&self, _: RequestId) {}

    fn drain(&self) {}

    fn reset_prefix_cache(&self) {}
}

static ROUTER: LazyLock<Router> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/nvllm-tiny");
    let files = ModelFiles::in_directory(&dir).expect("the demo model is in the repository");
    let model = Model::open(&files).expect("the demo model opens");
    nvllm_serve::router(&model, ServedOptions { embeddings: true, ..ServedOptions::default() }, Arc::new(Full))
        .expect("its template is its own")
});

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else { return };
    let path = PATHS[usize::from(*first) % PATHS.len()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let request = HttpRequest::post(path).body(Body::from(body.to_vec())).expect("a request");
        let response = ROUTER.clone().oneshot(request).await.expect("routers answer");
        let status = response.status().as_u16();
        assert!(status < 500, "{path}: {status}");
        let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        let _: serde_json::Value = serde_json::from_slice(&bytes).expect("answers are JSON");
    });
});
