//! Compiling what answers are to follow: beside the threads that serve, a few at once, in time.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use axum::http::StatusCode;
use nvllm_engine::grammar::{Grammar, GrammarCompiler, StructuredOutput};
use nvllm_engine::{EngineError, Model};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::error::{ApiError, Refusal};
use crate::valid::structured::Structured;

/// The library's limits end a grammar's compilation; this ends the wait for it where that takes
/// longer than they promise.
const DEADLINE: Duration = Duration::from_secs(10);

/// The grammars of a model's answers.
pub(crate) struct Grammars {
    /// `None` if the model has no tokenizer.
    compiler: Option<Arc<GrammarCompiler>>,
    /// One for each grammar that may be compiled now: half of the CPUs, as the others serve.
    permits: Arc<Semaphore>,
}

impl Grammars {
    pub(crate) fn new(model: &Model) -> Self {
        let permits = (available_parallelism().map_or(1, NonZero::get) / 2).max(1);
        Self {
            compiler: GrammarCompiler::new(model).ok().map(Arc::new),
            permits: Arc::new(Semaphore::new(permits)),
        }
    }

    /// Errors, in the name of the parameter that asks for it, if the grammar is wrong, too large,
    /// or asks for what is not supported; and if it is not compiled in time.
    pub(crate) async fn compile(&self, structured: Structured) -> Result<Grammar, ApiError> {
        let Structured { param, output, parts } = structured;
        match self.compile_one(&param, output).await {
            Err(error) if error.status == StatusCode::BAD_REQUEST => {
                for (param, output) in parts {
                    self.compile_one(&param, output).await?;
                }
                Err(error)
            }
            result => result,
        }
    }

    async fn compile_one(&self, param: &str, output: StructuredOutput) -> Result<Grammar, ApiError> {
        let Some(compiler) = self.compiler.clone() else {
            return Err(ApiError::bad(param, "needs a tokenizer, which this model has not; leave it out"));
        };
        if let Some(grammar) = compiler.kept(&output) {
            return Ok(grammar);
        }
        let Ok(Ok(permit)) = timeout(DEADLINE, Arc::clone(&self.permits).acquire_owned()).await else {
            let message = "too many grammars are being compiled; send it again later";
            return Err(ApiError::refused(StatusCode::TOO_MANY_REQUESTS, Refusal::QueueFull, message));
        };
        let compiling = spawn_blocking(move || {
            // Not before it has ended, even if nobody waits any more.
            let _permit = permit;
            compiler.compile(&output)
        });
        match timeout(DEADLINE, compiling).await {
            Ok(Ok(compiled)) => compiled.map_err(|error| match error {
                EngineError::RequestField { problem, .. } => ApiError::bad(param, problem),
                other => other.into(),
            }),
            Ok(Err(_)) => Err(ApiError::bad(param, "cannot be compiled; simplify it")),
            Err(_) => {
                let problem = format!("is not compiled within {} s; simplify it", DEADLINE.as_secs());
                Err(ApiError::bad(param, problem))
            }
        }
    }
}
