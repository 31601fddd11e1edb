//! One answer: its events as they come, until its end or Ctrl-C.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nvllm_core::{TokenId, TokenLogprobs};
use nvllm_engine::{Engine, Event, FinishReason, Finished, Request, RequestStream};

use crate::interrupt::Listener;

/// How soon Ctrl-C is noticed while nothing comes, as in the reading of a long prompt.
const POLL: Duration = Duration::from_millis(20);

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The model ended the text.
    EndOfText,
    /// A stop string of the request was complete.
    StopString,
    /// As many tokens as were asked for.
    MaxTokens,
    /// Prompt and answer fill the context.
    ContextFull,
    /// Ctrl-C.
    Interrupted,
}

impl Ending {
    /// OpenAI's names; `abort` is vLLM's.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::EndOfText | Self::StopString => "stop",
            Self::MaxTokens | Self::ContextFull => "length",
            Self::Interrupted => "abort",
        }
    }
}

/// A generated token.
pub(crate) struct Token {
    pub id: TokenId,
    /// The text that became final with it.
    pub text: String,
    pub logprobs: Option<TokenLogprobs>,
}

/// All that came of a request.
pub(crate) struct Answer {
    pub text: String,
    pub tokens: Vec<Token>,
    pub ending: Ending,
    pub prompt_tokens: usize,
    /// From submission to the first token.
    pub time_to_first_token: Option<Duration>,
    /// From the first token to the last.
    pub decode_time: Duration,
}

/// Receives one answer.
pub(super) struct Receiving {
    stream: RequestStream,
    prompt_tokens: usize,
    max_tokens: Option<usize>,
    submitted: Instant,
    aborted: bool,
}

impl Receiving {
    /// Submits `request`.
    pub(super) fn submit(engine: &Engine, request: Request) -> Result<Self> {
        let (prompt_tokens, max_tokens) = (request.prompt.len(), request.max_tokens);
        // Before the engine has it: a short answer can be there when the call returns.
        let submitted = Instant::now();
        Ok(Self { stream: engine.stream(request)?, prompt_tokens, max_tokens, submitted, aborted: false })
    }

    /// Waits for the answer, and hands over each piece of text as it comes: with its token, or held
    /// back until the end.
    ///
    /// Ctrl-C aborts the request, wherever it is: the answer is what has come by then.
    pub(super) fn answer(
        mut self,
        interrupt: &Listener,
        mut show: impl FnMut(&str, Option<&Token>) -> Result<()>,
    ) -> Result<Answer> {
        let mut answer = Answer {
            text: String::new(),
            tokens: Vec::new(),
            ending: Ending::Interrupted,
            prompt_tokens: self.prompt_tokens,
            time_to_first_token: None,
            decode_time: Duration::ZERO,
        };
        let mut first = None;
        loop {
            match self.next_event(interrupt) {
                Event::Token { token: id, text, logprobs, at, .. } => {
                    let first = *first.get_or_insert(at);
                    answer.time_to_first_token = Some(first - self.submitted);
                    answer.decode_time = at - first;
                    answer.text += &text;
                    let token = Token { id, text, logprobs };
                    show(&token.text, Some(&token))?;
                    answer.tokens.push(token);
                }
                Event::Finished(finished) => {
                    answer.text += &finished.text;
                    show(&finished.text, None)?;
                    answer.ending = self.ending(&finished)?;
                    return Ok(answer);
                }
                Event::PromptRow { .. } | Event::Embedding { .. } => {}
            }
        }
    }

    /// The next event. Ctrl-C makes the end the next that is waited for.
    fn next_event(&mut self, interrupt: &Listener) -> Event {
        loop {
            if interrupt.is_pressed() && !std::mem::replace(&mut self.aborted, true) {
                self.stream.abort();
            }
            if let Some(event) = self.stream.next_timeout(POLL) {
                return event;
            }
        }
    }

    fn ending(&self, finished: &Finished) -> Result<Ending> {
        if let Some(error) = &finished.error {
            bail!("generation failed: {error}");
        }
        Ok(match finished.reason {
            FinishReason::StopToken(_) | FinishReason::Complete => Ending::EndOfText,
            FinishReason::StopString => Ending::StopString,
            FinishReason::Length if Some(finished.output_tokens) == self.max_tokens => Ending::MaxTokens,
            FinishReason::Length => Ending::ContextFull,
            FinishReason::Aborted
            | FinishReason::Barred
            | FinishReason::Deadline
            | FinishReason::Failed
            | FinishReason::Unusable => Ending::Interrupted,
        })
    }
}
