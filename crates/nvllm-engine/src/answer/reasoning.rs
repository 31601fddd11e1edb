//! Thoughts apart from the answer.

use std::borrow::Cow;

use super::marks::{begins_with, certain, without_newlines};

/// The marks around a model's thoughts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasoning {
    /// Before the thoughts, where the prompt has not opened them already.
    pub begin: Cow<'static, str>,
    /// Behind the thoughts; not empty.
    pub end: Cow<'static, str>,
}

impl Reasoning {
    /// `<think>` and `</think>`, as of Qwen3, `DeepSeek` R1 and many others.
    pub const THINK: Self = Self { begin: Cow::Borrowed("<think>"), end: Cow::Borrowed("</think>") };
}

/// A piece of a text that has thoughts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Thought(String),
    Answer(String),
}

/// Splits one text. Thoughts stand at its beginning only: later marks are the answer's words.
///
/// The ends of line inside the marks and behind the last one belong to them: templates write
/// `<think>\n..\n</think>\n\n..` and strip them from what they are given back.
#[derive(Debug)]
pub(super) struct Splitter {
    marks: Reasoning,
    state: State,
    /// What has come and is not told yet.
    held: String,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nothing but white space and a part of the opening mark has come. Without that mark the
    /// text is thoughts already if the prompt has it.
    Start {
        thinks: bool,
    },
    /// Behind the opening mark.
    Opened,
    Thoughts,
    /// Behind the closing mark.
    Closed,
    Answer,
}

impl Splitter {
    pub(super) fn new(marks: Reasoning, prompt_opens_thinking: bool) -> Self {
        Self { marks, state: State::Start { thinks: prompt_opens_thinking }, held: String::new() }
    }

    pub(super) fn push(&mut self, text: &str, mut tell: impl FnMut(Piece)) {
        self.held.push_str(text);
        while self.step(&mut tell) {}
    }

    /// Goes as far as one state goes. False if more text is awaited.
    fn step(&mut self, tell: &mut impl FnMut(Piece)) -> bool {
        match self.state {
            State::Start { thinks } => {
                let blanks = self.held.len() - self.held.trim_start().len();
                match begins_with(&self.held[blanks..], &self.marks.begin) {
                    None => return false,
                    Some(true) => {
                        self.held.drain(..blanks + self.marks.begin.len());
                        self.state = State::Opened;
                    }
                    Some(false) if thinks => self.state = State::Opened,
                    Some(false) => self.state = State::Answer,
                }
                true
            }
            State::Opened => self.skip_newlines(State::Thoughts),
            State::Thoughts => {
                if let Some(at) = self.held.find(&*self.marks.end) {
                    let behind = self.held.split_off(at + self.marks.end.len());
                    self.held.truncate(without_newlines(&self.held[..at]));
                    self.tell(tell, Piece::Thought, behind);
                    self.state = State::Closed;
                    true
                } else {
                    let behind = self.held.split_off(certain(&self.held, &[&self.marks.end]));
                    self.tell(tell, Piece::Thought, behind);
                    false
                }
            }
            State::Closed => self.skip_newlines(State::Answer),
            State::Answer => {
                self.tell(tell, Piece::Answer, String::new());
                false
            }
        }
    }

    /// The text is over.
    pub(super) fn finish(&mut self, mut tell: impl FnMut(Piece)) {
        match self.state {
            State::Start { thinks: false } | State::Answer => {
                self.tell(&mut tell, Piece::Answer, String::new());
            }
            _ => self.tell(&mut tell, Piece::Thought, String::new()),
        }
    }

    fn skip_newlines(&mut self, next: State) -> bool {
        let newlines = self.held.len() - self.held.trim_start_matches('\n').len();
        self.held.drain(..newlines);
        if self.held.is_empty() {
            return false;
        }
        self.state = next;
        true
    }

    fn tell(&mut self, tell: &mut impl FnMut(Piece), piece: fn(String) -> Piece, rest: String) {
        let text = std::mem::replace(&mut self.held, rest);
        if !text.is_empty() {
            tell(piece(text));
        }
    }
}
