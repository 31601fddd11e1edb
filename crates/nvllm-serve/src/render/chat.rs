//! `/v1/chat/completions`: events to chunks, and to a whole answer.

use nvllm_core::TokenId;
use nvllm_engine::{Event, Finished};
use serde_json::Value;

use super::reading::{Reader, Reading};
use super::{Frames, Head, StreamRenderer, UsageCount};
use crate::ending::Ending;
use crate::error::ApiError;
use crate::scores::TokenNames;
use crate::served::ReasoningField;
use crate::submission::{ChoiceEvent, Submission};
use crate::valid::sampling::ValidStream;
use crate::wire::chat::{Answer, ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChunkChoice, Delta};

/// What is fixed for a chat's answer.
pub(crate) struct ChatRenderer {
    pub(crate) head: Head,
    pub(crate) names: TokenNames,
    pub(crate) eos: Vec<TokenId>,
    pub(crate) prompt: Vec<TokenId>,
    /// Text that every answer begins with.
    pub(crate) echo: String,
    /// Of how many of the likeliest tokens log-probabilities are shown.
    pub(crate) top_logprobs: usize,
    pub(crate) return_token_ids: bool,
    pub(crate) prompt_logprobs: bool,
    pub(crate) reasoning_field: ReasoningField,
    pub(crate) usage: UsageCount,
    choices: Vec<Choice>,
    /// Rows of the prompt.
    prompt_rows: Vec<Value>,
}

/// How far a choice has come.
struct Choice {
    begun: bool,
    reader: Reader,
}

impl ChatRenderer {
    pub(crate) fn new(
        head: Head,
        names: TokenNames,
        prompt: Vec<TokenId>,
        n: usize,
        reading: &Reading,
    ) -> Self {
        let choice = || Choice { begun: false, reader: reading.reader(&names.tokenizer) };
        Self {
            head,
            eos: Vec::new(),
            usage: UsageCount::new([prompt.len()], n).with_reasoning(),
            prompt,
            echo: String::new(),
            top_logprobs: 0,
            return_token_ids: false,
            prompt_logprobs: false,
            reasoning_field: ReasoningField::default(),
            choices: std::iter::repeat_with(choice).take(n).collect(),
            names,
            prompt_rows: Vec::new(),
        }
    }

    /// What an event adds to its choice. Errors if the choice failed.
    pub(super) fn pieces(&mut self, news: ChoiceEvent) -> Result<Vec<ChunkChoice>, ApiError> {
        self.usage.count(&news);
        let index = news.choice;
        let mut pieces = Vec::new();
        match news.event {
            Event::PromptRow { index, logprobs, .. } => {
                if let Some((token, scores)) = self.prompt.get(index + 1).zip(logprobs.as_ref()) {
                    self.prompt_rows.push(self.names.prompt_row(*token, scores));
                }
            }
            // Not asked for here.
            Event::Embedding { .. } => {}
            Event::Token { token, text, logprobs, .. } => {
                self.begin(index, &mut pieces);
                let content = logprobs.map(|scores| self.names.chat(token, &scores, self.top_logprobs));
                let logprobs = content.map(|token| ChatLogprobs { content: vec![token], refusal: None });
                let token_ids = self.return_token_ids.then(|| vec![token.0]);
                self.say(index, token, text, (logprobs, token_ids), &mut pieces);
            }
            Event::Finished(finished) => {
                self.begin(index, &mut pieces);
                self.finish(index, finished, &mut pieces)?;
            }
        }
        Ok(pieces)
    }

    /// The role, in a choice's first piece and in no other: clients join them.
    fn begin(&mut self, index: usize, pieces: &mut Vec<ChunkChoice>) {
        if let Some(choice) = self.choices.get_mut(index).filter(|choice| !choice.begun) {
            choice.begun = true;
            let delta =
                Delta { role: Some("assistant"), content: Some(self.echo.clone()), ..Delta::default() };
            pieces.push(ChunkChoice { index, delta, ..ChunkChoice::default() });
        }
    }

    /// A token's text, in as many pieces as it has meanings. What else is told of the token is in
    /// the first, and has one without a text where there is none.
    fn say(
        &mut self,
        index: usize,
        token: TokenId,
        text: String,
        mut told: (Option<ChatLogprobs>, Option<Vec<u32>>),
        pieces: &mut Vec<ChunkChoice>,
    ) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        let (mut deltas, is_thought) = choice.reader.token(token, text);
        if is_thought {
            self.usage.count_reasoning();
        }
        if deltas.is_empty() && (told.0.is_some() || told.1.is_some()) {
            deltas.push(Delta::default());
        }
        for delta in deltas {
            let (logprobs, token_ids) = std::mem::take(&mut told);
            pieces.push(ChunkChoice {
                index,
                delta,
                logprobs,
                token_ids,
                is_thought,
                ..ChunkChoice::default()
            });
        }
    }

    fn finish(
        &mut self,
        index: usize,
        finished: Finished,
        pieces: &mut Vec<ChunkChoice>,
    ) -> Result<(), ApiError> {
        let Ending { mut finish_reason, stop_reason } = Ending::of(&finished, &self.eos)?;
        if let Some(choice) = self.choices.get_mut(index) {
            for delta in choice.reader.finish(finished.text) {
                pieces.push(ChunkChoice { index, delta, ..ChunkChoice::default() });
            }
            if choice.reader.has_called() && finish_reason == "stop" {
                finish_reason = "tool_calls";
            }
        }
        let finish_reason = Some(finish_reason);
        pieces.push(ChunkChoice { index, finish_reason, stop_reason, ..ChunkChoice::default() });
        Ok(())
    }

    /// The whole answer. Errors if a choice fails.
    pub(crate) async fn whole(mut self, mut submission: Submission) -> Result<ChatCompletion, ApiError> {
        let empty = |index| ChatChoice {
            index,
            message: Answer { role: "assistant", ..Answer::default() },
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: self.return_token_ids.then(Vec::new),
        };
        let mut choices: Vec<_> = (0..self.choices.len()).map(empty).collect();
        while let Some(news) = submission.next().await {
            for piece in self.pieces(news)? {
                if let Some(choice) = choices.get_mut(piece.index) {
                    choice.push(piece);
                }
            }
        }
        for (choice, Choice { reader, .. }) in choices.iter_mut().zip(&self.choices) {
            let message = &mut choice.message;
            let says_nothing = message.content.as_deref().is_none_or(str::is_empty);
            message.content = message.content.take().filter(|_| !says_nothing);
            if !reader.has_thought() && !reader.has_called() {
                message.content.get_or_insert_default();
            }
            (message.reasoning, message.reasoning_content) =
                in_fields(message.reasoning.take(), self.reasoning_field);
        }
        let rows = std::mem::take(&mut self.prompt_rows);
        Ok(ChatCompletion {
            id: self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: self.head.model,
            choices,
            service_tier: None,
            system_fingerprint: None,
            usage: self.usage.usage(),
            prompt_logprobs: self.prompt_logprobs.then(|| [Value::Null].into_iter().chain(rows).collect()),
            prompt_token_ids: self.return_token_ids.then(|| self.prompt.iter().map(|id| id.0).collect()),
        })
    }
}

/// Thoughts as `reasoning` and as `reasoning_content`.
fn in_fields(thoughts: Option<String>, field: ReasoningField) -> (Option<String>, Option<String>) {
    match field {
        ReasoningField::Reasoning => (thoughts, None),
        ReasoningField::ReasoningContent => (None, thoughts),
        ReasoningField::Both => (thoughts.clone(), thoughts),
    }
}

impl ChatChoice {
    fn push(&mut self, piece: ChunkChoice) {
        let message = &mut self.message;
        if let Some(text) = piece.delta.content {
            *message.content.get_or_insert_default() += &text;
        }
        if let Some(text) = piece.delta.reasoning {
            *message.reasoning.get_or_insert_default() += &text;
        }
        for call in piece.delta.tool_calls {
            // A call without an id goes on with the last one.
            match message.tool_calls.last_mut().filter(|_| call.id.is_none()) {
                Some(last) => last.function.arguments += &call.function.arguments,
                None => message.tool_calls.push(crate::wire::tools::ToolCall { index: None, ..call }),
            }
        }
        if let Some(logprobs) = piece.logprobs {
            self.logprobs.get_or_insert_default().content.extend(logprobs.content);
        }
        if let (Some(ids), Some(new)) = (&mut self.token_ids, piece.token_ids) {
            ids.extend(new);
        }
        self.finish_reason = self.finish_reason.or(piece.finish_reason);
        self.stop_reason = self.stop_reason.take().or(piece.stop_reason);
    }
}

/// A chat's answer as a stream.
pub(crate) struct ChatStream {
    pub(crate) renderer: ChatRenderer,
    pub(crate) options: ValidStream,
    /// The prompt's tokens, for the first chunk.
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
}

impl ChatStream {
    fn chunk(&mut self, choices: Vec<ChunkChoice>, with_usage: bool, frames: &mut Frames) {
        let ids = self.prompt_token_ids.take();
        let head = &self.renderer.head;
        frames.data(&ChatChunk {
            id: &head.id,
            object: "chat.completion.chunk",
            created: head.created,
            model: &head.model,
            choices,
            usage: with_usage.then(|| self.renderer.usage.usage()),
            prompt_token_ids: ids.as_deref(),
        });
    }
}

impl StreamRenderer for ChatStream {
    fn news(&mut self, news: ChoiceEvent, frames: &mut Frames) -> Result<(), ApiError> {
        for mut piece in self.renderer.pieces(news)? {
            let delta = &mut piece.delta;
            (delta.reasoning, delta.reasoning_content) =
                in_fields(delta.reasoning.take(), self.renderer.reasoning_field);
            self.chunk(vec![piece], self.options.continuous_usage, frames);
        }
        Ok(())
    }

    /// The chunk with the usage is the last: some clients forget it when another follows.
    fn end(&mut self, frames: &mut Frames) {
        if self.options.usage {
            self.chunk(Vec::new(), true, frames);
        }
        frames.done();
    }
}
