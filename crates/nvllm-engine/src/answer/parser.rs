//! Reading one answer.

use super::AnswerFormat;
use super::calls::CallParser;
use super::part::{AnswerPart, Parts};
use super::reasoning::{Piece, Splitter};

/// Reads one answer, in pieces as they come.
#[derive(Debug)]
pub struct AnswerParser {
    thoughts: Option<Splitter>,
    calls: Option<CallParser>,
    parts: Parts,
}

impl AnswerFormat {
    /// A parser of one answer. `prompt_opens_thinking` says that the prompt ends within thoughts
    /// ([`prompt_opens_thinking`](super::prompt_opens_thinking)): the answer begins with them then.
    pub fn parser(&self, prompt_opens_thinking: bool) -> AnswerParser {
        let splitter = |marks| Splitter::new(marks, prompt_opens_thinking);
        AnswerParser {
            thoughts: self.reasoning.clone().map(splitter),
            calls: self.tools.map(|tools| CallParser::new(tools, &self.tool_list)),
            parts: Parts::default(),
        }
    }
}

impl AnswerParser {
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
