//! Reading one answer.

use super::AnswerFormat;
use super::calls::CallParser;
use super::reasoning::{Piece, Splitter};

/// What a piece of an answer's text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerPart {
    /// Thoughts.
    Reasoning(String),
    /// Words for the reader.
    Content(String),
    /// A call begins: its name is known. It comes before the call's arguments.
    ToolCall {
        /// Which call of the answer, counted from 0.
        index: usize,
        /// The tool's name, as the model writes it.
        name: String,
    },
    /// More of the JSON text of a call's arguments.
    Arguments {
        /// Which call of the answer.
        index: usize,
        /// The next piece of the text.
        text: String,
    },
}

/// Parts of an answer, in order. Those of one kind that follow each other are joined.
#[derive(Debug, Default)]
pub(super) struct Parts {
    list: Vec<AnswerPart>,
    /// Calls that have been told, in this answer.
    num_calls: usize,
}

impl Parts {
    pub(super) fn reasoning(&mut self, text: &str) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerPart::Reasoning(last)) => last.push_str(text),
            _ => self.list.push(AnswerPart::Reasoning(text.into())),
        }
    }

    pub(super) fn content(&mut self, text: &str) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerPart::Content(last)) => last.push_str(text),
            _ => self.list.push(AnswerPart::Content(text.into())),
        }
    }

    /// A call begins, whose arguments follow.
    pub(super) fn call(&mut self, name: &str) {
        self.list.push(AnswerPart::ToolCall { index: self.num_calls, name: name.into() });
        self.num_calls += 1;
    }

    /// Arguments of the last call.
    pub(super) fn arguments(&mut self, text: &str) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerPart::Arguments { text: last, .. }) => last.push_str(text),
            _ => {
                let index = self.num_calls.saturating_sub(1);
                self.list.push(AnswerPart::Arguments { index, text: text.into() });
            }
        }
    }

    fn take(&mut self) -> Vec<AnswerPart> {
        std::mem::take(&mut self.list)
    }
}

/// Reads one answer, in pieces as they come.
#[derive(Debug)]
pub struct AnswerParser {
    thoughts: Option<Splitter>,
    calls: Option<CallParser>,
    parts: Parts,
}

impl AnswerParser {
    pub(super) fn new(format: &AnswerFormat, prompt_opens_thinking: bool) -> Self {
        let splitter = |marks| Splitter::new(marks, prompt_opens_thinking);
        Self {
            thoughts: format.reasoning.clone().map(splitter),
            calls: format.tools.map(|tools| CallParser::new(tools, &format.tool_list)),
            parts: Parts::default(),
        }
    }

    /// The parts that are certain with `text`, the next piece of the answer.
    pub fn push(&mut self, text: &str) -> Vec<AnswerPart> {
        let Self { thoughts, calls, parts } = self;
        match thoughts {
            Some(thoughts) => thoughts.push(text, |piece| sort(piece, calls.as_mut(), parts)),
            None => answer(text, calls.as_mut(), parts),
        }
        parts.take()
    }

    /// What was held back: no more text comes.
    pub fn finish(&mut self) -> Vec<AnswerPart> {
        let Self { thoughts, calls, parts } = self;
        if let Some(thoughts) = thoughts {
            thoughts.finish(|piece| sort(piece, calls.as_mut(), parts));
        }
        if let Some(calls) = calls {
            calls.finish(parts);
        }
        parts.take()
    }

    /// How many calls have begun.
    pub fn num_calls(&self) -> usize {
        self.parts.num_calls
    }
}

fn sort(piece: Piece, calls: Option<&mut CallParser>, parts: &mut Parts) {
    match piece {
        Piece::Thought(text) => parts.reasoning(&text),
        Piece::Answer(text) => answer(&text, calls, parts),
    }
}

fn answer(text: &str, calls: Option<&mut CallParser>, parts: &mut Parts) {
    match calls {
        Some(calls) => calls.push(text, parts),
        None => parts.content(text),
    }
}
