//! `/v1/messages`: a chat's pieces to Anthropic's events, and to a whole answer.

use super::chat::ChatRenderer;
use super::{Frames, StreamRenderer};
use crate::error::ApiError;
use crate::submission::{ChoiceEvent, Submission};
use crate::wire::chat::{ChunkChoice, StopReason};
use crate::wire::messages::{
    BlockDelta, MessageEnd, MessageEvent, MessageObject, MessagesError, MessagesUsage, TextBlock,
};

/// The place of the only block.
const INDEX: usize = 0;

/// A message as far as it has come.
pub(crate) struct MessageRenderer {
    chat: ChatRenderer,
    /// Those of the client.
    stop_sequences: Vec<String>,
    /// Its content is empty until the end.
    message: MessageObject,
    block: TextBlock,
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
        Self { chat, stop_sequences, message, block: TextBlock { r#type: "text", text: String::new() } }
    }

    /// Takes a piece in, and returns the text that is new.
    fn take(&mut self, piece: ChunkChoice) -> String {
        if let Some(reason) = piece.finish_reason {
            (self.message.stop_reason, self.message.stop_sequence) =
                ending(reason, piece.stop_reason, &self.stop_sequences);
        }
        piece.delta.content.unwrap_or_default()
    }

    /// The whole answer. Errors if it fails.
    pub(crate) async fn whole(mut self, mut submission: Submission) -> Result<MessageObject, ApiError> {
        while let Some(news) = submission.next().await {
            for piece in self.chat.pieces(news)? {
                let text = self.take(piece);
                self.block.text += &text;
            }
        }
        self.message.usage = usage(&self.chat);
        self.message.content = vec![self.block];
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
        send(frames, &MessageEvent::ContentBlockStart { index: INDEX, content_block: &self.block });
        send(frames, &MessageEvent::Ping);
    }

    fn news(&mut self, news: ChoiceEvent, frames: &mut Frames) -> Result<(), ApiError> {
        for piece in self.chat.pieces(news)? {
            let text = self.take(piece);
            if !text.is_empty() {
                let delta = BlockDelta::TextDelta { text: &text };
                send(frames, &MessageEvent::ContentBlockDelta { index: INDEX, delta });
            }
        }
        Ok(())
    }

    /// The usage of all: clients overwrite what the first event told them.
    fn end(&mut self, frames: &mut Frames) {
        send(frames, &MessageEvent::ContentBlockStop { index: INDEX });
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
    }
}
