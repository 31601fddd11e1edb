//! The engine alone: the requests of a server's clients, submitted in this process.
//!
//! What a server adds is the difference to this: HTTP and JSON, sockets, the client. The client of
//! the engine alone is the same thread with the same work on an answer, but for reading it.

use std::sync::Arc;
use std::time::Instant;

use nvllm_core::{SamplingParams, TokenId};
use nvllm_engine::text::{EncodeOptions, Tokenizer};
use nvllm_engine::{Engine, EngineError, Event, LoadOptions, Request};

use super::answer::{Answer, Job, NoAnswer, Prompt};
use crate::Result;
use crate::context::Context;

/// A loaded model without a server.
pub(super) struct Alone {
    engine: Engine,
    tokenizer: Option<Arc<Tokenizer>>,
    /// The model's own, as for a request that says temperature 0 and to ignore the end.
    sampling: SamplingParams,
}

impl Alone {
    /// Loads the model as `nvllm serve` does.
    ///
    /// Errors if it cannot be opened or loaded.
    pub(super) fn start(bench: &Context) -> Result<Self> {
        let model = Arc::new(bench.open()?);
        let settings = &bench.settings;
        let options = LoadOptions {
            max_num_batched_tokens: settings.step_tokens,
            activations: Some(settings.activations),
            kv_cache_dtype: Some(settings.kv_format),
            numerics: settings.numerics,
            exact_head: settings.exact_head,
            ..LoadOptions::default()
        };
        let factory = bench.factory();
        let engine = Engine::builder(Arc::clone(&model), move || factory()).options(options).start()?;
        let sampling = SamplingParams { temperature: 0.0, stop_tokens: Vec::new(), ..model.sampling() };
        Ok(Self { engine, tokenizer: model.tokenizer().ok().cloned(), sampling })
    }

    /// Tokens that a prompt and its answer may have together.
    pub(super) fn context(&self) -> Option<usize> {
        self.engine.info().ok().map(|info| info.limits.context)
    }

    /// The ids of a text, if the model has a tokenizer.
    pub(super) fn tokenize(&self, text: &str) -> Option<Vec<u32>> {
        self.tokenizer.as_ref()?.encode(text, EncodeOptions::default()).ok()
    }

    /// Requests that run, requests that wait, and KV blocks in use.
    pub(super) fn in_use(&self) -> [f64; 3] {
        let stats = self.engine.stats();
        [stats.num_running, stats.num_waiting, stats.used_blocks].map(|count| count as f64)
    }

    fn request(&self, job: &Job) -> Result<Request, NoAnswer> {
        let prompt = match &job.prompt {
            Prompt::Tokens(ids) => ids.clone(),
            Prompt::Text(_) => return Err(NoAnswer::Failed("the model has no tokenizer".into())),
        };
        Ok(Request {
            prompt: prompt.into_iter().map(TokenId).collect(),
            sampling: self.sampling.clone(),
            max_tokens: Some(job.output_len),
            ..Request::default()
        })
    }

    /// The answer's text, without a stream.
    pub(super) async fn send_whole(&self, job: &Job) -> Result<String, NoAnswer> {
        Ok(self.engine.generate_async(self.request(job)?).await.map_err(no_answer)?.text)
    }

    /// The answer, as a stream.
    pub(super) async fn send(&self, job: &Job) -> Result<Answer, NoAnswer> {
        let sent = Instant::now();
        let mut stream = self.engine.stream_async(self.request(job)?).map_err(no_answer)?;
        let (mut text, mut chunks) = (String::new(), Vec::new());
        let mut take_in = |piece: &str| {
            if !piece.is_empty() {
                chunks.push(sent.elapsed().as_secs_f64());
                text += piece;
            }
        };
        let finished = loop {
            match stream.next().await {
                Some(Event::Token { text, .. }) => take_in(&text),
                Some(Event::Finished(finished)) => break finished,
                Some(Event::PromptRow { .. } | Event::Embedding { .. }) => {}
                None => return Err(NoAnswer::Failed("its events broke off".into())),
            }
        };
        take_in(&finished.text);
        if let Some(error) = finished.error {
            return Err(NoAnswer::Failed(error));
        }
        Answer::new((finished.prompt_tokens, finished.output_tokens), chunks, text)
    }
}

/// What the engine says, in the words of a client: a server has a status for each.
fn no_answer(error: EngineError) -> NoAnswer {
    match error {
        EngineError::QueueFull { .. } => NoAnswer::Refused(429),
        EngineError::Loading | EngineError::Draining => NoAnswer::Refused(503),
        other => NoAnswer::Failed(other.to_string()),
    }
}
