//! One request's client: its text, its sink, and when what came.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use nvllm_core::sampling::is_usable;
use nvllm_core::{HostTensor, Tensor, TokenId, TokenLogprobs};
use nvllm_sched::FinishReason;

use super::{NOT_NUMBERS, Output, TextStream};
use crate::failure::panic_message;
use crate::{Event, EventSink, Finished};

/// Whom a request's events go to.
pub(crate) struct Client {
    sink: Box<dyn EventSink>,
    /// `None` if the model has no tokenizer.
    text: Option<TextStream>,
    prompt_tokens: usize,
    cached_tokens: usize,
    output_tokens: usize,
    submitted: Instant,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// How a request ends.
pub(super) struct Ending {
    pub(super) reason: FinishReason,
    pub(super) error: Option<String>,
}

impl Ending {
    pub(super) const fn of(reason: FinishReason) -> Self {
        Self { reason, error: None }
    }

    pub(super) fn failed(error: impl Into<String>) -> Self {
        Self { reason: FinishReason::Failed, error: Some(error.into()) }
    }

    pub(super) fn panicked(message: &str) -> Self {
        Self::failed(format!("its text or its sink panicked ({message})"))
    }
}

impl Client {
    /// A client whose request was submitted at `submitted`.
    pub(crate) fn new(
        sink: Box<dyn EventSink>,
        text: Option<TextStream>,
        prompt_tokens: usize,
        submitted: Instant,
    ) -> Self {
        Self {
            sink,
            text,
            prompt_tokens,
            cached_tokens: 0,
            output_tokens: 0,
            submitted,
            admitted: None,
            first_token: None,
            last_token: None,
        }
    }

    /// Takes in an output other than the end; an ending if the request ends by it.
    pub(super) fn take_in(&mut self, output: Output) -> Option<Ending> {
        let result = match output {
            Output::Admitted { at, cached_tokens } => {
                self.admitted.get_or_insert(at);
                self.cached_tokens = cached_tokens;
                Ok(None)
            }
            Output::PromptRow { index, logprobs, logits } => {
                to_host(logits).map(|logits| self.send(Event::PromptRow { index, logprobs, logits }))
            }
            Output::Token { token, logprobs, logits, at } => self.token(token, logprobs, logits, at),
            Output::Finished { reason, error } => return Some(Ending { reason, error }),
        };
        result.unwrap_or_else(|error| Some(Ending::failed(error)))
    }

    fn token(
        &mut self,
        token: TokenId,
        logprobs: Option<TokenLogprobs>,
        logits: Option<Box<dyn Tensor>>,
        at: Instant,
    ) -> Result<Option<Ending>, String> {
        let logits = to_host(logits)?;
        self.first_token.get_or_insert(at);
        self.last_token = Some(at);
        self.output_tokens += 1;
        let mut text = String::new();
        let stopped = self.text.as_mut().is_some_and(|stream| stream.push(token, &mut text));
        let gone = self.send(Event::Token { token, text, logprobs, logits, at });
        Ok(gone.or_else(|| stopped.then(|| Ending::of(FinishReason::StopString))))
    }

    /// Sends an event; a reader that is gone ends the request.
    fn send(&mut self, event: Event) -> Option<Ending> {
        self.sink.send(event).err().map(|_| Ending::of(FinishReason::Aborted))
    }

    /// Forgets text that a panic may have left half made.
    pub(super) fn lose_text(&mut self) {
        self.text = None;
    }

    /// Sends the end, with the text that was held back.
    pub(super) fn finish(mut self, mut ending: Ending) {
        let stream = self.text.take();
        let text = catch_unwind(AssertUnwindSafe(|| stream.map(TextStream::finish).unwrap_or_default()));
        let text = text.unwrap_or_else(|payload| {
            ending = Ending::panicked(panic_message(&*payload));
            String::new()
        });
        let since_submission = |at: Instant| at.saturating_duration_since(self.submitted);
        let finished = Finished {
            reason: ending.reason,
            error: ending.error,
            text,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: self.output_tokens,
            queue_time: self.admitted.map(since_submission),
            time_to_first_token: self.first_token.map(since_submission),
            decode_time: self.first_token.zip(self.last_token).map(|(a, b)| b - a).unwrap_or_default(),
        };
        // Nobody is left to care if it cannot be sent.
        let _ = self.sink.send(Event::Finished(finished));
    }
}

/// A row's logits on the host, if they are numbers.
fn to_host(tensor: Option<Box<dyn Tensor>>) -> Result<Option<HostTensor>, String> {
    let unreadable = |e| format!("its logits cannot be read: {e}");
    let row = tensor.map(|tensor| tensor.to_host().map_err(unreadable)).transpose()?;
    match row {
        Some(row) if !is_usable(&row.to_f32()) => Err(NOT_NUMBERS.into()),
        row => Ok(row),
    }
}
