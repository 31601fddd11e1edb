//! One request's client: the text of each choice, its sink, and when what came.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use nvllm_core::sampling::is_usable;
use nvllm_core::{HostTensor, Tensor, TokenId, TokenLogprobs};
use nvllm_sched::FinishReason;

use super::output::{EMBEDDING_NOT_NUMBERS, NOT_NUMBERS, Output};
use super::text_stream::TextStream;
use crate::failure::panic_message;
use crate::{Event, EventSink, Finished};

/// Whom a request's events go to.
pub(crate) struct Client {
    sink: Box<dyn EventSink>,
    prompt_tokens: usize,
    /// Whether rows of its prompt are embeddings.
    embed: bool,
    cached_tokens: usize,
    submitted: Instant,
    admitted: Option<Instant>,
    /// `None` for those that have ended.
    choices: Vec<Option<Choice>>,
}

/// One answer to the prompt.
#[derive(Default)]
struct Choice {
    /// `None` if the model has no tokenizer.
    text: Option<TextStream>,
    output_tokens: usize,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// How a choice, or a whole request, ends.
#[derive(Clone)]
pub(super) struct Ending {
    pub(super) reason: FinishReason,
    pub(super) error: Option<String>,
    pub(super) stop_string: Option<String>,
}

impl Ending {
    pub(super) const fn of(reason: FinishReason) -> Self {
        Self { reason, error: None, stop_string: None }
    }

    pub(super) fn failed(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::of(FinishReason::Failed) }
    }

    fn stopped(stop_string: &str) -> Self {
        Self { stop_string: Some(stop_string.into()), ..Self::of(FinishReason::StopString) }
    }

    pub(super) fn panicked(message: &str) -> Self {
        Self::failed(format!("its text or its sink panicked ({message})"))
    }
}

/// What ends by an output.
pub(super) enum Ends {
    /// The choice that it belongs to.
    Choice(Ending),
    /// All of the request.
    Request(Ending),
}

impl Client {
    /// A client whose request was submitted at `submitted`, with the text of each of its choices.
    /// If it is to `embed`, the row of its prompt is an embedding.
    pub(crate) fn new(
        sink: Box<dyn EventSink>,
        texts: Vec<Option<TextStream>>,
        prompt_tokens: usize,
        embed: bool,
        submitted: Instant,
    ) -> Self {
        let choice = |text| Some(Choice { text, ..Choice::default() });
        let choices = texts.into_iter().map(choice).collect();
        Self { sink, prompt_tokens, embed, cached_tokens: 0, submitted, admitted: None, choices }
    }

    /// The choices that have not ended.
    pub(super) fn open_choices(&self) -> Vec<usize> {
        (0..self.choices.len()).filter(|&choice| self.is_open(choice)).collect()
    }

    pub(super) fn is_open(&self, choice: usize) -> bool {
        self.choices.get(choice).is_some_and(Option::is_some)
    }

    /// Takes in an output other than the end of a choice that has not ended; what ends by it.
    pub(super) fn take_in(&mut self, choice: usize, output: Output) -> Option<Ends> {
        let result = match output {
            Output::Admitted { at, cached_tokens } => {
                // The first one's say: the others share what it computes.
                if self.admitted.is_none() {
                    self.admitted = Some(at);
                    self.cached_tokens = cached_tokens;
                }
                Ok(None)
            }
            Output::PromptRow { logits: Some(row), .. } if self.embed => {
                embedding(&*row).map(|values| self.send(Event::Embedding { values }))
            }
            Output::PromptRow { index, logprobs, logits } => match to_host(logits) {
                Ok(logits) => Ok(self.send(Event::PromptRow { index, logprobs, logits })),
                // The first choice reports the rows for all.
                Err(error) if choice == 0 => return Some(Ends::Request(Ending::failed(error))),
                Err(error) => Err(error),
            },
            Output::Token { token, logprobs, logits, at } => {
                to_host(logits).map(|logits| self.token(choice, token, logprobs, logits, at))
            }
            Output::Finished { reason, error } => {
                return Some(Ends::Choice(Ending { error, ..Ending::of(reason) }));
            }
        };
        result.unwrap_or_else(|error| Some(Ends::Choice(Ending::failed(error))))
    }

    fn token(
        &mut self,
        choice: usize,
        token: TokenId,
        logprobs: Option<TokenLogprobs>,
        logits: Option<HostTensor>,
        at: Instant,
    ) -> Option<Ends> {
        let state = self.choices.get_mut(choice)?.as_mut()?;
        state.first_token.get_or_insert(at);
        state.last_token = Some(at);
        state.output_tokens += 1;
        let mut text = String::new();
        let stopped = state.text.as_mut().and_then(|stream| stream.push(token, &mut text));
        let stopped = stopped.map(Ending::stopped);
        let gone = self.send(Event::Token { choice, token, text, logprobs, logits, at });
        gone.or(stopped.map(Ends::Choice))
    }

    /// Sends an event; a reader that is gone ends the request.
    fn send(&mut self, event: Event) -> Option<Ends> {
        self.sink.send(event).err().map(|_| Ends::Request(Ending::of(FinishReason::Aborted)))
    }

    /// Forgets text that a panic may have left half made.
    pub(super) fn lose_text(&mut self) {
        self.choices.iter_mut().flatten().for_each(|choice| choice.text = None);
    }

    /// Sends the end of a choice, with the text that was held back. True if it was the last.
    pub(super) fn finish(&mut self, choice: usize, mut ending: Ending) -> bool {
        let Some(state) = self.choices.get_mut(choice).and_then(Option::take) else { return false };
        let Choice { text: stream, output_tokens, first_token, last_token } = state;
        let text = catch_unwind(AssertUnwindSafe(|| stream.map(TextStream::finish).unwrap_or_default()));
        let text = text.unwrap_or_else(|payload| {
            ending = Ending::panicked(panic_message(&*payload));
            String::new()
        });
        let since_submission = |at: Instant| at.saturating_duration_since(self.submitted);
        let finished = Finished {
            choice,
            reason: ending.reason,
            error: ending.error,
            stop_string: ending.stop_string,
            text,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens,
            queue_time: self.admitted.map(since_submission),
            time_to_first_token: first_token.map(since_submission),
            decode_time: first_token.zip(last_token).map(|(a, b)| b - a).unwrap_or_default(),
        };
        // A sink that panics has heard all that it will hear, and nobody is left to care if the
        // event cannot be sent.
        let _ = catch_unwind(AssertUnwindSafe(|| self.sink.send(Event::Finished(finished))));
        self.choices.iter().all(Option::is_none)
    }
}

/// A row of hidden states as numbers, if it is that.
fn embedding(row: &dyn Tensor) -> Result<Vec<f32>, String> {
    let row = row.to_host().map_err(|e| format!("its hidden states cannot be read: {e}"))?;
    if row.is_finite() { Ok(row.to_f32()) } else { Err(EMBEDDING_NOT_NUMBERS.into()) }
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
