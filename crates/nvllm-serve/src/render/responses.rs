//! `/v1/responses`: a chat's pieces to named events, and to a whole answer.

use super::chat::ChatRenderer;
use super::{Frames, StreamRenderer, now};
use crate::error::ApiError;
use crate::submission::{ChoiceEvent, Submission};
use crate::wire::chat::{ChunkChoice, StopReason, TokenLogprob};
use crate::wire::responses::{
    Echoed, EventBody, IncompleteDetails, InputTokensDetails, OutputMessage, OutputText, OutputTokensDetails,
    ResponseError, ResponseEvent, ResponseObject, ResponseUsage,
};

/// The place of the only item, and of its only part.
const INDEX: usize = 0;

/// A response as far as it has come.
pub(crate) struct ResponseRenderer {
    chat: ChatRenderer,
    /// Its output is empty until the end.
    response: ResponseObject,
    /// The message, with no content until its text is complete.
    item: OutputMessage,
    part: OutputText,
    /// Of the next event.
    sequence_number: u64,
}

impl ResponseRenderer {
    /// The ids of response and message are made once: clients find events together by them.
    pub(crate) fn new(chat: ChatRenderer, message_id: String, echoed: Echoed) -> Self {
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
        let item = OutputMessage {
            r#type: "message",
            id: message_id,
            status: "in_progress",
            role: "assistant",
            content: Vec::new(),
        };
        let part = OutputText { r#type: "output_text", ..OutputText::default() };
        Self { chat, response, item, part, sequence_number: 0 }
    }

    /// Takes in what a piece says, and returns it if it says something.
    fn said(&mut self, piece: &mut ChunkChoice) -> Option<(String, Vec<TokenLogprob>)> {
        let text = piece.delta.content.take().unwrap_or_default();
        let logprobs = piece.logprobs.take().map(|logprobs| logprobs.content).unwrap_or_default();
        self.part.text += &text;
        self.part.logprobs.extend(logprobs.iter().cloned());
        (!text.is_empty() || !logprobs.is_empty()).then_some((text, logprobs))
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

    /// Puts the message, as far as it has come, into the response.
    fn close(&mut self) {
        self.item.status = if self.response.status == "completed" { "completed" } else { "incomplete" };
        self.item.content = vec![self.part.clone()];
        self.response.output = vec![self.item.clone()];
        let usage = self.chat.usage.usage();
        self.response.usage = Some(ResponseUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.prompt_tokens_details.cached_tokens,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
            total_tokens: usage.total_tokens,
        });
    }

    /// The whole answer. Errors if it fails.
    pub(crate) async fn whole(mut self, mut submission: Submission) -> Result<ResponseObject, ApiError> {
        while let Some(news) = submission.next().await {
            for mut piece in self.chat.pieces(news)? {
                self.said(&mut piece);
                self.ended(&piece);
            }
        }
        self.close();
        Ok(self.response)
    }

    /// The text is complete: the events that say so.
    fn close_item(&mut self, frames: &mut Frames) {
        let mut events = Events { frames, sequence_number: &mut self.sequence_number };
        let OutputText { text, logprobs, .. } = &self.part;
        let item_id = &self.item.id;
        let (output_index, content_index) = (INDEX, INDEX);
        let body = EventBody::Text { item_id, output_index, content_index, text, logprobs };
        events.send("response.output_text.done", body);
        let body = EventBody::Part { item_id, output_index, content_index, part: &self.part };
        events.send("response.content_part.done", body);
        events.send("response.output_item.done", EventBody::Item { output_index, item: &self.item });
    }

    fn send_response(&mut self, name: &'static str, frames: &mut Frames) {
        let mut events = Events { frames, sequence_number: &mut self.sequence_number };
        events.send(name, EventBody::Response { response: &self.response });
    }
}

/// Where a stream's events go.
struct Events<'a> {
    frames: &'a mut Frames,
    sequence_number: &'a mut u64,
}

impl Events<'_> {
    fn send(&mut self, name: &'static str, body: EventBody<'_>) {
        let sequence_number = *self.sequence_number;
        *self.sequence_number += 1;
        self.frames.event(name, &ResponseEvent { r#type: name, sequence_number, body });
    }
}

/// Every kind of event is sent, in order: clients that accumulate fail if one of the first four or
/// the last is not there.
impl StreamRenderer for ResponseRenderer {
    fn begin(&mut self, frames: &mut Frames) {
        self.send_response("response.created", frames);
        self.send_response("response.in_progress", frames);
        let mut events = Events { frames, sequence_number: &mut self.sequence_number };
        let (output_index, content_index) = (INDEX, INDEX);
        events.send("response.output_item.added", EventBody::Item { output_index, item: &self.item });
        let (item_id, part) = (&self.item.id, &self.part);
        let body = EventBody::Part { item_id, output_index, content_index, part };
        events.send("response.content_part.added", body);
    }

    fn news(&mut self, news: ChoiceEvent, frames: &mut Frames) -> Result<(), ApiError> {
        for mut piece in self.chat.pieces(news)? {
            if let Some((delta, logprobs)) = self.said(&mut piece) {
                let mut events = Events { frames, sequence_number: &mut self.sequence_number };
                let body = EventBody::Delta {
                    item_id: &self.item.id,
                    output_index: INDEX,
                    content_index: INDEX,
                    delta: &delta,
                    logprobs: &logprobs,
                };
                events.send("response.output_text.delta", body);
            }
            self.ended(&piece);
        }
        Ok(())
    }

    /// The last event has all of the output again: clients that find none there forget the text.
    fn end(&mut self, frames: &mut Frames) {
        self.close();
        self.close_item(frames);
        let complete = self.response.status == "completed";
        self.send_response(if complete { "response.completed" } else { "response.incomplete" }, frames);
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        self.response.status = "failed";
        self.response.error = Some(ResponseError { code: "server_error", message: error.message.clone() });
        self.close();
        self.send_response("response.failed", frames);
    }
}
