//! Requests on their way through the engine: submitted together, their events in one channel.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::StatusCode;
use nvllm_engine::{EngineError, Event, EventSink, Finished, Gone, Request, RequestId};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::error::ApiError;
use crate::generator::Generator;
use crate::metrics::{Metrics, Observer};

/// Events that a client may fall behind by, for each of its choices. Then its request ends: the
/// memory of a server must not grow with its slowest reader.
const EVENTS_BEHIND: usize = 1024;
/// Events of one submission that wait at most, however many choices it has.
const MAX_EVENTS_BEHIND: usize = 65_536;

/// Answers of one HTTP request at most, over all of its prompts.
const MAX_CHOICES: usize = 4096;

/// An event of one choice, counted over all prompts of a submission.
#[derive(Debug)]
pub(crate) struct ChoiceEvent {
    pub(crate) choice: usize,
    pub(crate) event: Event,
}

/// What the client has asked for in one HTTP request. Dropping it aborts what has not ended.
pub(crate) struct Submission {
    events: Receiver<(usize, Event)>,
    generator: Arc<dyn Generator>,
    ids: Vec<RequestId>,
    /// Choices of each prompt.
    n: usize,
    /// Choices that have not ended.
    open: BTreeSet<usize>,
    observer: Observer,
}

/// A refusal of one of so many prompts. If all of them would never fit the queue, waiting for it
/// does not help.
fn refusal(error: EngineError, num_prompts: usize) -> ApiError {
    match error {
        EngineError::QueueFull { max_requests, .. } if num_prompts > max_requests => ApiError::new(
            StatusCode::BAD_REQUEST,
            format!(
                "{num_prompts} prompts are more than may wait at once ({max_requests}); send fewer in one request"
            ),
        ),
        other => other.into(),
    }
}

/// The sink of one of several prompts.
struct PromptSink {
    prompt: usize,
    events: Sender<(usize, Event)>,
}

impl EventSink for PromptSink {
    fn send(&mut self, event: Event) -> Result<(), Gone> {
        self.events.try_send((self.prompt, event)).map_err(|_| Gone)
    }
}

impl Submission {
    /// Submits one request for each prompt, `n` choices each.
    ///
    /// Errors as [`Generator::submit`] does, if any is refused; then none of them runs.
    pub(crate) fn new(
        generator: &Arc<dyn Generator>,
        requests: Vec<Request>,
        metrics: &Metrics,
    ) -> Result<Self, ApiError> {
        let n = requests.first().and_then(|request| request.n).unwrap_or(1);
        let (num_prompts, num_choices) = (requests.len(), requests.len().saturating_mul(n));
        if num_choices > MAX_CHOICES {
            let problem =
                format!("is {n} for each of {num_prompts} prompts; ask for {MAX_CHOICES} answers at most");
            return Err(ApiError::bad("n", problem));
        }
        let behind = num_choices.saturating_mul(EVENTS_BEHIND).clamp(1, MAX_EVENTS_BEHIND);
        let prompt_rows = requests.iter().filter(|request| request.prompt_logprobs.is_some());
        let rows: usize = prompt_rows.map(|request| request.prompt.len()).sum();
        let (sender, events) = channel(behind + rows);
        let mut submission = Self {
            events,
            generator: Arc::clone(generator),
            ids: Vec::new(),
            n,
            open: BTreeSet::new(),
            observer: metrics.observer(requests.len(), n),
        };
        for (prompt, request) in requests.into_iter().enumerate() {
            let sink = Box::new(PromptSink { prompt, events: sender.clone() });
            let max_tokens = request.max_tokens;
            let id = generator.submit(request, sink).map_err(|error| refusal(error, num_prompts))?;
            submission.observer.taken(max_tokens);
            submission.ids.push(id);
            submission.open.extend(prompt * n..(prompt + 1) * n);
        }
        Ok(submission)
    }

    /// The next event; `None` once all choices have ended.
    pub(crate) async fn next(&mut self) -> Option<ChoiceEvent> {
        let choice = *self.open.first()?;
        let Some((prompt, event)) = self.events.recv().await else {
            // The sinks are gone before the end: the engine found this reader too slow.
            self.open.remove(&choice);
            let too_slow =
                Finished { choice: choice % self.n, ..Finished::failed("its reader fell too far behind") };
            return Some(ChoiceEvent { choice, event: Event::Finished(too_slow) });
        };
        let of = match &event {
            Event::PromptRow { .. } | Event::Embedding { .. } => 0,
            Event::Token { choice, .. } => *choice,
            Event::Finished(finished) => finished.choice,
        };
        let choice = prompt * self.n + of;
        self.observer.see(choice, &event);
        if matches!(event, Event::Finished(_)) {
            self.open.remove(&choice);
        }
        Some(ChoiceEvent { choice, event })
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        if !self.open.is_empty() {
            self.ids.iter().for_each(|id| self.generator.abort(*id));
        }
    }
}
