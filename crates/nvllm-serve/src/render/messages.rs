//! `/v1/messages`: a chat's pieces to Anthropic's events, and to a whole answer.

use serde_json::Map;
use uuid::Uuid;

use super::chat::ChatRenderer;
use super::{Frames, StreamRenderer};
use crate::error::ApiError;
use crate::submission::{ChoiceEvent, Submission};
use crate::wire::chat::{ChunkChoice, StopReason};
use crate::wire::messages::{
    AnswerBlock, BlockDelta, MessageEnd, MessageEvent, MessageObject, MessagesError, MessagesUsage,
};
use crate::wire::tools::ToolCall;

/// A message as far as it has come.
pub(crate) struct MessageRenderer {
    chat: ChatRenderer,
    /// Those of the client.
    stop_sequences: Vec<String>,
    /// Its content is empty until the end.
    message: MessageObject,
    blocks: Vec<AnswerBlock>,
    /// The last block's arguments, if it is a call.
    arguments: String,
}

impl MessageRenderer {
    pub(crate) fn new(chat: ChatRenderer, stop_sequences: Vec<String>) -> Self {
        let message = MessageObject {
            id: chat.head.id.clone(),
            r#type: "message",
            role: "assistant",
            model: chat.head.model.clone(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: usage(&chat),
        };
        Self { chat, stop_sequences, message, blocks: Vec::new(), arguments: String::new() }
    }

    /// Takes a piece in, and tells what it says.
    fn take(&mut self, piece: ChunkChoice, mut frames: Option<&mut Frames>) {
        if let Some(reason) = piece.finish_reason {
            (self.message.stop_reason, self.message.stop_sequence) =
                ending(reason, piece.stop_reason, &self.stop_sequences);
        }
        if let Some(thought) = piece.delta.reasoning {
            if !matches!(self.blocks.last(), Some(AnswerBlock::Thinking { .. })) {
                let (thinking, signature) = (String::new(), String::new());
                self.open(AnswerBlock::Thinking { thinking, signature }, frames.as_deref_mut());
            }
            self.add(BlockDelta::Thinking { thinking: &thought }, frames.as_deref_mut());
        }
        for call in piece.delta.tool_calls {
            self.call(call, frames.as_deref_mut());
        }
        if let Some(text) = piece.delta.content.filter(|text| !text.is_empty()) {
            if !matches!(self.blocks.last(), Some(AnswerBlock::Text { .. })) {
                self.open(AnswerBlock::Text { text: String::new() }, frames.as_deref_mut());
            }
            self.add(BlockDelta::Text { text: &text }, frames);
        }
    }

    /// A call begins, or more of its arguments comes.
    fn call(&mut self, call: ToolCall, mut frames: Option<&mut Frames>) {
        if let (Some(id), Some(name)) = (call.id, call.function.name) {
            // As Anthropic's begin.
            let id = id.strip_prefix("call_").map_or_else(|| id.clone(), |id| format!("toolu_{id}"));
            self.open(AnswerBlock::ToolUse { id, name, input: Map::new() }, frames.as_deref_mut());
        }
        let partial_json = call.function.arguments;
        if !partial_json.is_empty() {
            self.add(BlockDelta::InputJson { partial_json: &partial_json }, frames);
        }
    }

    fn open(&mut self, block: AnswerBlock, mut frames: Option<&mut Frames>) {
        self.close(frames.as_deref_mut());
        if let Some(frames) = frames {
            let index = self.blocks.len();
            send(frames, &MessageEvent::ContentBlockStart { index, content_block: &block });
            if index == 0 {
                send(frames, &MessageEvent::Ping);
            }
        }
        self.blocks.push(block);
    }

    /// Adds to the block that is open.
    fn add(&mut self, delta: BlockDelta<'_>, frames: Option<&mut Frames>) {
        match (self.blocks.last_mut(), &delta) {
            (Some(AnswerBlock::Text { text: all }), BlockDelta::Text { text }) => all.push_str(text),
            (Some(AnswerBlock::Thinking { thinking: all, .. }), BlockDelta::Thinking { thinking }) => {
                all.push_str(thinking);
            }
            (_, BlockDelta::InputJson { partial_json }) => self.arguments.push_str(partial_json),
            _ => {}
        }
        if let Some(frames) = frames {
            let index = self.blocks.len().saturating_sub(1);
            send(frames, &MessageEvent::ContentBlockDelta { index, delta });
        }
    }

    /// The block that is open, if there is one, is complete.
    fn close(&mut self, mut frames: Option<&mut Frames>) {
        let index = self.blocks.len().saturating_sub(1);
        match self.blocks.last_mut() {
            None => return,
            Some(AnswerBlock::Thinking { signature, .. }) => {
                *signature = Uuid::new_v4().simple().to_string();
                if let Some(frames) = frames.as_deref_mut() {
                    let delta = BlockDelta::Signature { signature };
                    send(frames, &MessageEvent::ContentBlockDelta { index, delta });
                }
            }
            // What was cut is no object.
            Some(AnswerBlock::ToolUse { input, .. }) => {
                *input = serde_json::from_str(&std::mem::take(&mut self.arguments)).unwrap_or_default();
            }
            Some(AnswerBlock::Text { .. }) => {}
        }
        if let Some(frames) = frames {
            send(frames, &MessageEvent::ContentBlockStop { index });
        }
    }

    /// Closes the last block. An answer that says nothing is an empty text.
    fn close_all(&mut self, mut frames: Option<&mut Frames>) {
        if self.blocks.is_empty() {
            self.open(AnswerBlock::Text { text: String::new() }, frames.as_deref_mut());
        }
        self.close(frames);
    }

    /// The whole answer. Errors if it fails.
    pub(crate) async fn whole(mut self, mut submission: Submission) -> Result<MessageObject, ApiError> {
        while let Some(news) = submission.next().await {
            for piece in self.chat.pieces(news)? {
                self.take(piece, None);
            }
        }
        self.close_all(None);
        self.message.usage = usage(&self.chat);
        self.message.content = self.blocks;
        Ok(self.message)
    }
}

/// How an answer ended, in Anthropic's words, which have none for a deadline.
fn ending(
    finish_reason: &str,
    stop_reason: Option<StopReason>,
    stop_sequences: &[String],
) -> (Option<&'static str>, Option<String>) {
    match stop_reason {
        _ if finish_reason == "length" => (Some("max_tokens"), None),
        _ if finish_reason == "tool_calls" => (Some("tool_use"), None),
        Some(StopReason::Text(text)) if stop_sequences.contains(&text) => (Some("stop_sequence"), Some(text)),
        _ => (Some("end_turn"), None),
    }
}

/// The tokens so far. What was cached is known at the end.
fn usage(chat: &ChatRenderer) -> MessagesUsage {
    let usage = chat.usage.usage();
    let cached = usage.prompt_tokens_details.cached_tokens;
    MessagesUsage {
        input_tokens: usage.prompt_tokens.saturating_sub(cached),
        cache_read_input_tokens: cached,
        cache_creation_input_tokens: 0,
        output_tokens: usage.completion_tokens,
    }
}

fn send(frames: &mut Frames, event: &MessageEvent<'_>) {
    frames.event(event.name(), event);
}

impl StreamRenderer for MessageRenderer {
    fn begin(&mut self, frames: &mut Frames) {
        send(frames, &MessageEvent::MessageStart { message: &self.message });
    }

    fn news(&mut self, news: ChoiceEvent, frames: &mut Frames) -> Result<(), ApiError> {
        for piece in self.chat.pieces(news)? {
            self.take(piece, Some(frames));
        }
        Ok(())
    }

    /// The usage of all: clients overwrite what the first event told them.
    fn end(&mut self, frames: &mut Frames) {
        self.close_all(Some(frames));
        let MessageObject { stop_reason, stop_sequence, .. } = &self.message;
        let delta = MessageEnd { stop_reason: *stop_reason, stop_sequence: stop_sequence.as_deref() };
        send(frames, &MessageEvent::MessageDelta { delta, usage: usage(&self.chat) });
        send(frames, &MessageEvent::MessageStop);
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.event("error", &MessagesError::from(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clients_own_stop_sequences_are_named() {
        let own = ["END".to_owned()];
        let stopped_at = |text: &str| Some(StopReason::Text(text.into()));
        assert_eq!(ending("stop", None, &own), (Some("end_turn"), None));
        assert_eq!(ending("stop", stopped_at("END"), &own), (Some("stop_sequence"), Some("END".into())));
        assert_eq!(ending("stop", stopped_at("the model's"), &own), (Some("end_turn"), None));
        assert_eq!(ending("stop", Some(StopReason::Token(5)), &own), (Some("end_turn"), None));
        assert_eq!(ending("length", None, &own), (Some("max_tokens"), None));
        assert_eq!(ending("length", stopped_at("timeout"), &own), (Some("max_tokens"), None));
        assert_eq!(ending("tool_calls", None, &own), (Some("tool_use"), None));
    }
}
