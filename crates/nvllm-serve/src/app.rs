//! What all routes share.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::FromRef;
use axum::http::StatusCode;
use nvllm_engine::{EngineError, Health, Request};

use crate::error::{ApiError, Refusal};
use crate::generator::Generator;
use crate::metrics::Metrics;
use crate::openapi::Document;
use crate::render::now;
use crate::served::Served;
use crate::submission::Submission;
use crate::work::Workers;

/// A server's state: its model, and what generates.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) served: Arc<Served>,
    pub(crate) generator: Arc<dyn Generator>,
    pub(crate) metrics: Arc<Metrics>,
    /// Seconds since 1970 when it was made.
    pub(crate) created: u64,
    document: Document,
    workers: Workers,
}

/// For the route that sends the description.
impl FromRef<App> for Document {
    fn from_ref(app: &App) -> Self {
        app.document.clone()
    }
}

impl App {
    /// `document` describes the routes that share it.
    pub(crate) fn new(
        served: Served,
        generator: Arc<dyn Generator>,
        metrics: Metrics,
        document: Document,
    ) -> Self {
        let (served, metrics) = (Arc::new(served), Arc::new(metrics));
        Self { served, generator, metrics, created: now(), document, workers: Workers::default() }
    }

    /// Errors if no request would be taken now: said before a body is looked at, as routers send
    /// what was refused again and again.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        match self.generator.health() {
            Health::Serving if self.generator.is_full() => {
                let message = "as many requests wait as may (--max-queued-requests); send it again later";
                Err(ApiError::refused(StatusCode::TOO_MANY_REQUESTS, Refusal::QueueFull, message))
            }
            Health::Serving => Ok(()),
            Health::Loading => Err(EngineError::Loading.into()),
            Health::Draining => Err(EngineError::Draining.into()),
            Health::Failed(reason) => Err(EngineError::Stopped { reason }.into()),
        }
    }

    /// Tokens of prompt and answer together; none before the model is loaded.
    pub(crate) fn max_model_len(&self) -> Option<usize> {
        self.generator.info().map(|info| info.limits.context)
    }

    /// What `work` makes of a body, on a thread of its own if the body is large; see
    /// [`Workers::run`].
    pub(crate) async fn work<T, W>(&self, bytes: Bytes, work: W) -> Result<T, ApiError>
    where
        T: Send + 'static,
        W: FnOnce(&Self, &[u8]) -> Result<T, ApiError> + Send + 'static,
    {
        let app = self.clone();
        self.workers.run(bytes, move |bytes| work(&app, bytes)).await
    }

    /// Submits one request for each prompt, under `param`'s name if the prompt is at fault.
    pub(crate) fn submit(&self, requests: Vec<Request>, param: &str) -> Result<Submission, ApiError> {
        Submission::new(&self.generator, requests, &self.metrics)
            .map_err(|error| if error.status == StatusCode::BAD_REQUEST { error.about(param) } else { error })
    }
}
