//! The output of `/v1/responses`: items that open, grow and close, with the events that tell it.

use uuid::Uuid;

use super::Frames;
use crate::wire::chat::TokenLogprob;
use crate::wire::responses::{EventBody, OutputItem, OutputPart, Place, ResponseEvent};
use crate::wire::tools::ToolCall;

/// Where events go: numbered, and nowhere if the answer is not streamed.
#[derive(Default)]
pub(super) struct Events {
    sequence_number: u64,
}

impl Events {
    pub(super) fn send(&mut self, frames: Option<&mut Frames>, name: &'static str, body: EventBody<'_>) {
        let Some(frames) = frames else { return };
        let sequence_number = self.sequence_number;
        self.sequence_number += 1;
        frames.event(name, &ResponseEvent { r#type: name, sequence_number, body });
    }
}

/// The items so far. At most the last is open.
#[derive(Default)]
pub(super) struct Output {
    items: Vec<OutputItem>,
    is_open: bool,
    /// Log-probabilities of tokens that have not become anybody's text.
    pending: Vec<TokenLogprob>,
}

/// Kinds of items that have a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TextKind {
    Reasoning,
    Message,
}

/// The place of the only part that a text has.
const PART: usize = 0;

impl Output {
    pub(super) fn items(&self) -> Vec<OutputItem> {
        self.items.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// More of a text: of the item that is open if it is one of this kind, else of a new one.
    pub(super) fn say(
        &mut self,
        kind: TextKind,
        text: &str,
        logprobs: Vec<TokenLogprob>,
        events: &mut Events,
        mut frames: Option<&mut Frames>,
    ) {
        if self.open_kind() != Some(kind) {
            self.open(text_item(kind), events, frames.as_deref_mut());
        }
        let mut new = std::mem::take(&mut self.pending);
        new.extend(logprobs);
        let index = self.items.len().saturating_sub(1);
        let Some(item) = self.items.last_mut() else { return };
        if text.is_empty() && new.is_empty() {
            return;
        }
        let (name, logprobs) = match item.part_mut() {
            Some(OutputPart::OutputText { text: all, logprobs, .. }) => {
                all.push_str(text);
                logprobs.extend(new.iter().cloned());
                ("response.output_text.delta", Some(&*new))
            }
            Some(OutputPart::ReasoningText { text: all }) => {
                all.push_str(text);
                ("response.reasoning_text.delta", None)
            }
            None => return,
        };
        events.send(frames, name, EventBody::Delta { at: item.place(index), delta: text, logprobs });
    }

    /// Log-probabilities of a token without a text.
    pub(super) fn hold(
        &mut self,
        logprobs: Vec<TokenLogprob>,
        events: &mut Events,
        frames: Option<&mut Frames>,
    ) {
        match self.open_kind() {
            Some(TextKind::Message) => self.say(TextKind::Message, "", logprobs, events, frames),
            _ => self.pending.extend(logprobs),
        }
    }

    /// A call begins, or more of its arguments comes.
    pub(super) fn call(&mut self, call: ToolCall, events: &mut Events, mut frames: Option<&mut Frames>) {
        if let (Some(call_id), Some(name)) = (call.id, call.function.name) {
            let id = new_id("fc");
            let arguments = String::new();
            let item = OutputItem::FunctionCall { id, status: "in_progress", call_id, name, arguments };
            self.open(item, events, frames.as_deref_mut());
        }
        let index = self.items.len().saturating_sub(1);
        let delta = call.function.arguments;
        if let Some(OutputItem::FunctionCall { arguments, .. }) =
            self.items.last_mut().filter(|_| !delta.is_empty())
        {
            arguments.push_str(&delta);
            let at = self.items[index].place(index);
            let body = EventBody::Delta { at, delta: &delta, logprobs: None };
            events.send(frames, "response.function_call_arguments.delta", body);
        }
    }

    fn open_kind(&self) -> Option<TextKind> {
        match self.items.last().filter(|_| self.is_open)? {
            OutputItem::Reasoning { .. } => Some(TextKind::Reasoning),
            OutputItem::Message { .. } => Some(TextKind::Message),
            OutputItem::FunctionCall { .. } => None,
        }
    }

    fn open(&mut self, mut item: OutputItem, events: &mut Events, mut frames: Option<&mut Frames>) {
        self.close("completed", events, frames.as_deref_mut());
        if !matches!(item, OutputItem::Message { .. }) {
            self.pending.clear();
        }
        let output_index = self.items.len();
        let added = EventBody::Item { output_index, item: &item };
        events.send(frames.as_deref_mut(), "response.output_item.added", added);
        if let Some(part) = item.new_part() {
            let at = item.place(output_index);
            events.send(frames, "response.content_part.added", EventBody::Part { at, part: &part });
            item.add(part);
        }
        self.items.push(item);
        self.is_open = true;
    }

    /// Closes the item that is open, if one is, and tells all of it.
    pub(super) fn close(&mut self, end: &'static str, events: &mut Events, mut frames: Option<&mut Frames>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let output_index = self.items.len().saturating_sub(1);
        let Some(item) = self.items.last_mut() else { return };
        item.end(end);
        let at = item.place(output_index);
        match &*item {
            OutputItem::FunctionCall { name, arguments, .. } => {
                let body = EventBody::Arguments { at, name, arguments };
                events.send(frames.as_deref_mut(), "response.function_call_arguments.done", body);
            }
            OutputItem::Reasoning { content, .. } | OutputItem::Message { content, .. } => {
                for part in content {
                    let (name, text, logprobs) = match part {
                        OutputPart::OutputText { text, logprobs, .. } => {
                            ("response.output_text.done", text, Some(&**logprobs))
                        }
                        OutputPart::ReasoningText { text } => ("response.reasoning_text.done", text, None),
                    };
                    events.send(frames.as_deref_mut(), name, EventBody::Text { at, text, logprobs });
                    let body = EventBody::Part { at, part };
                    events.send(frames.as_deref_mut(), "response.content_part.done", body);
                }
            }
        }
        events.send(frames, "response.output_item.done", EventBody::Item { output_index, item });
    }

    /// Marks the item that is open without telling it: the answer has failed.
    pub(super) fn break_off(&mut self) {
        if let Some(item) = self.items.last_mut().filter(|_| std::mem::take(&mut self.is_open)) {
            item.end("incomplete");
        }
    }
}

fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::new_v4().simple())
}

fn text_item(kind: TextKind) -> OutputItem {
    let status = "in_progress";
    match kind {
        TextKind::Reasoning => {
            OutputItem::Reasoning { id: new_id("rs"), summary: Vec::new(), content: Vec::new(), status }
        }
        TextKind::Message => {
            OutputItem::Message { id: new_id("msg"), status, role: "assistant", content: Vec::new() }
        }
    }
}

impl OutputItem {
    fn place(&self, output_index: usize) -> Place<'_> {
        let (item_id, content_index) = match self {
            Self::Reasoning { id, .. } | Self::Message { id, .. } => (id, Some(PART)),
            Self::FunctionCall { id, .. } => (id, None),
        };
        Place { item_id, output_index, content_index }
    }

    fn new_part(&self) -> Option<OutputPart> {
        let text = String::new();
        match self {
            Self::Reasoning { .. } => Some(OutputPart::ReasoningText { text }),
            Self::Message { .. } => {
                Some(OutputPart::OutputText { text, annotations: Vec::new(), logprobs: Vec::new() })
            }
            Self::FunctionCall { .. } => None,
        }
    }

    fn add(&mut self, part: OutputPart) {
        if let Self::Reasoning { content, .. } | Self::Message { content, .. } = self {
            content.push(part);
        }
    }

    fn part_mut(&mut self) -> Option<&mut OutputPart> {
        match self {
            Self::Reasoning { content, .. } | Self::Message { content, .. } => content.last_mut(),
            Self::FunctionCall { .. } => None,
        }
    }

    fn end(&mut self, end: &'static str) {
        match self {
            Self::Reasoning { status, .. }
            | Self::Message { status, .. }
            | Self::FunctionCall { status, .. } => *status = end,
        }
    }
}
