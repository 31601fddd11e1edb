//! `[TOOL_CALLS] [{"name": .., "arguments": {..}}, ..]`, and the form of later models:
//! `[TOOL_CALLS]NAME[ARGS]{..}` for each call, with or without `[CALL_ID]..` and `[ARGS]`.

use super::call_json::{CallJson, Progress};
use crate::answer::marks::{begins_with, content_before};
use crate::answer::part::Parts;

const MARK: &str = "[TOOL_CALLS]";
const ARGS: &str = "[ARGS]";
const CALL_ID: &str = "[CALL_ID]";

/// Bytes of the longest name, and of the longest id of a call.
const MAX_NAME: usize = 512;

#[derive(Debug, Default)]
pub(in crate::answer) struct Mistral {
    state: State,
    /// What has come and is not looked at or not told yet.
    held: String,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Content,
    /// Behind the mark, which `before` holds, with the ends of line before it.
    Marked { before: String },
    /// In a call. `before` is what tells that one may begin.
    Call { before: String, call: CallJson, in_list: bool },
    /// Behind a call of a list.
    InList,
}

/// How the text behind the mark begins.
enum Head {
    Cut,
    /// A list, with its bracket at this place.
    List(usize),
    /// One object.
    Object,
    /// A tool's name, with the arguments at this place.
    Name(String, usize),
    None,
}

impl Mistral {
    pub(super) fn push(&mut self, text: &str, parts: &mut Parts) {
        self.held.push_str(text);
        while self.step(parts) {}
    }

    /// Goes as far as one state goes. False if more text is awaited.
    fn step(&mut self, parts: &mut Parts) -> bool {
        match &mut self.state {
            State::Content => {
                let Some(before) = content_before(&mut self.held, MARK, parts) else { return false };
                self.state = State::Marked { before };
            }
            State::Marked { before } => {
                let mut before = std::mem::take(before);
                let (len, call, in_list) = match head(&self.held) {
                    Head::Cut => {
                        self.state = State::Marked { before };
                        return false;
                    }
                    Head::None => {
                        parts.content(&before);
                        self.state = State::Content;
                        return true;
                    }
                    Head::List(at) => (at + 1, CallJson::new(true), true),
                    Head::Object => (0, CallJson::new(true), false),
                    Head::Name(name, at) => (at, CallJson::arguments_of(name), false),
                };
                before.extend(self.held.drain(..len));
                self.state = State::Call { before, call, in_list };
            }
            State::Call { before, call, in_list } => {
                match call.push(&std::mem::take(&mut self.held), parts) {
                    Progress::More => return false,
                    Progress::Done(behind) => {
                        self.held = behind;
                        self.state = if *in_list { State::InList } else { State::Content };
                    }
                    Progress::NoCall(text) => {
                        parts.content(before);
                        self.held = text;
                        self.state = State::Content;
                    }
                }
            }
            State::InList => {
                let blanks = self.held.len()
                    - self.held.trim_start_matches(|c: char| c.is_whitespace() || c == '}').len();
                match self.held[blanks..].chars().next() {
                    None => return false,
                    Some(c @ (',' | ']')) => {
                        let before = self.held.drain(..=blanks).collect();
                        self.state = if c == ']' {
                            State::Content
                        } else {
                            State::Call { before, call: CallJson::new(true), in_list: true }
                        };
                    }
                    Some(_) => self.state = State::Content,
                }
            }
        }
        true
    }

    pub(super) fn finish(&mut self, parts: &mut Parts) {
        let held = std::mem::take(&mut self.held);
        match std::mem::take(&mut self.state) {
            State::Content => parts.content(&held),
            State::Marked { before } => {
                parts.content(&before);
                parts.content(&held);
            }
            State::Call { before, call, .. } if !call.is_told() => {
                parts.content(&before);
                parts.content(&call.into_raw());
            }
            State::Call { .. } | State::InList => {}
        }
    }
}

fn head(text: &str) -> Head {
    let blanks = text.len() - text.trim_start().len();
    match text[blanks..].chars().next() {
        None => Head::Cut,
        Some('[') => Head::List(blanks),
        Some('{') => Head::Object,
        Some(_) => name(text, blanks),
    }
}

/// The name that begins at `from`, up to the arguments' brace.
fn name(text: &str, from: usize) -> Head {
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    let len = |text: &str| text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    let mut at = from + len(&text[from..]);
    let name = &text[from..at];
    if name.is_empty() || name.len() > MAX_NAME {
        return Head::None;
    }
    for mark in [CALL_ID, ARGS] {
        match begins_with(&text[at..], mark) {
            None => return Head::Cut,
            Some(true) => {
                at += mark.len();
                let id = if mark == CALL_ID { len(&text[at..]) } else { 0 };
                if id > MAX_NAME {
                    return Head::None;
                }
                at += id;
            }
            Some(false) => {}
        }
    }
    at += text[at..].len() - text[at..].trim_start().len();
    match text[at..].chars().next() {
        None => Head::Cut,
        Some('{') => Head::Name(name.into(), at),
        Some(_) => Head::None,
    }
}
