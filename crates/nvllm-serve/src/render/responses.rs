//! `/v1/responses`: a chat's pieces to named events, and to a whole answer.

use super::chat::ChatRenderer;
use super::output::{Events, Output, TextKind};
use super::{Frames, StreamRenderer, now};
use crate::error::ApiError;
use crate::submission::{ChoiceEvent, Submission};
use crate::wire::chat::{ChunkChoice, StopReason};
use crate::wire::responses::{
    Echoed, EventBody, IncompleteDetails, InputTokensDetails, OutputTokensDetails, ResponseError,
    ResponseObject, ResponseUsage,
};

/// A response as far as it has come.
pub(crate) struct ResponseRenderer {
    chat: ChatRenderer,
    /// Its output is empty until the end.
    response: ResponseObject,
    output: Output,
    events: Events,
}

impl ResponseRenderer {
    /// The ids of the response and of its items are made once: clients find events together by
    /// them.
    pub(crate) fn new(chat: ChatRenderer, echoed: Echoed) -> Self {
        let response = ResponseObject {
            id: chat.head.id.clone(),
            object: "response",
            created_at: chat.head.created,
            completed_at: None,
            status: "in_progress",
            error: None,
            incomplete_details: None,
            model: chat.head.model.clone(),
            output: Vec::new(),
            usage: None,
            echoed,
        };
        Self { chat, response, output: Output::default(), events: Events::default() }
    }

    /// Takes a piece in, and tells what it says.
    fn take(&mut self, piece: ChunkChoice, mut frames: Option<&mut Frames>) {
        self.ended(&piece);
        let Self { output, events, .. } = self;
        // Those of the message alone.
        let logprobs = piece.logprobs.filter(|_| !piece.is_thought);
        let logprobs = logprobs.map(|logprobs| logprobs.content).unwrap_or_default();
        let text = piece.delta.content.filter(|text| !text.is_empty());
        if let Some(thought) = piece.delta.reasoning {
            output.say(TextKind::Reasoning, &thought, Vec::new(), events, frames);
        } else if !piece.delta.tool_calls.is_empty() {
            for call in piece.delta.tool_calls {
                output.call(call, events, frames.as_deref_mut());
            }
        } else if let Some(text) = text {
            output.say(TextKind::Message, &text, logprobs, events, frames);
        } else if !logprobs.is_empty() {
            output.hold(logprobs, events, frames);
        }
    }

    /// Takes in how the answer ended, if the piece says so.
    fn ended(&mut self, piece: &ChunkChoice) {
        let Some(reason) = piece.finish_reason else { return };
        let complete = reason != "length";
        self.response.status = if complete { "completed" } else { "incomplete" };
        self.response.completed_at = complete.then(now);
        let timeout = piece.stop_reason == Some(StopReason::Text("timeout".into()));
        let reason = if timeout { "timeout" } else { "max_output_tokens" };
        self.response.incomplete_details = (!complete).then_some(IncompleteDetails { reason });
    }

    /// Closes the last item, and puts all into the response. An answer that says nothing is an
    /// empty message: clients look for one.
    fn close(&mut self, mut frames: Option<&mut Frames>) {
        let end = if self.response.status == "completed" { "completed" } else { "incomplete" };
        let Self { output, events, .. } = self;
        if output.is_empty() {
            output.say(TextKind::Message, "", Vec::new(), events, frames.as_deref_mut());
        }
        output.close(end, events, frames);
        self.fill();
    }

    fn fill(&mut self) {
        self.response.output = self.output.items();
        let usage = self.chat.usage.usage();
        let reasoning_tokens = usage.completion_tokens_details.map_or(0, |details| details.reasoning_tokens);
        self.response.usage = Some(ResponseUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.prompt_tokens_details.cached_tokens,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens },
            total_tokens: usage.total_tokens,
        });
    }

    /// The whole answer. Errors if it fails.
    pub(crate) async fn whole(mut self, mut submission: Submission) -> Result<ResponseObject, ApiError> {
        while let Some(news) = submission.next().await {
            for piece in self.chat.pieces(news)? {
                self.take(piece, None);
            }
        }
        self.close(None);
        Ok(self.response)
    }

    fn send_response(&mut self, name: &'static str, frames: &mut Frames) {
        self.events.send(Some(frames), name, EventBody::Response { response: &self.response });
    }
}

/// Every kind of event is sent, in order: clients that accumulate fail if one that opens something
/// or the last is not there.
impl StreamRenderer for ResponseRenderer {
    fn begin(&mut self, frames: &mut Frames) {
        self.send_response("response.created", frames);
        self.send_response("response.in_progress", frames);
    }

    fn news(&mut self, news: ChoiceEvent, frames: &mut Frames) -> Result<(), ApiError> {
        for piece in self.chat.pieces(news)? {
            self.take(piece, Some(frames));
        }
        Ok(())
    }

    /// The last event has all of the output again: clients that find none there forget the text.
    fn end(&mut self, frames: &mut Frames) {
        self.close(Some(frames));
        let complete = self.response.status == "completed";
        self.send_response(if complete { "response.completed" } else { "response.incomplete" }, frames);
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        self.response.status = "failed";
        self.response.error = Some(ResponseError { code: "server_error", message: error.message.clone() });
        self.output.break_off();
        self.fill();
        self.send_response("response.failed", frames);
    }
}
