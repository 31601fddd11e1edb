//! `{"name": .., "parameters": {..}}` as the whole answer, several with `;` between, or behind
//! `<|python_tag|>`.

use super::call_json::{CallJson, Progress};
use crate::answer::marks::{begins_with, content_before};
use crate::answer::part::Parts;

const TAG: &str = "<|python_tag|>";

#[derive(Debug, Default)]
pub(in crate::answer) struct Llama3Json {
    state: State,
    /// What has come and is not looked at or not told yet.
    held: String,
}

#[derive(Debug, Default)]
enum State {
    /// Before the answer's first word.
    #[default]
    Start,
    Content,
    /// Behind the tag.
    Tagged,
    /// In a call. `before` is what tells that one may begin.
    Call {
        before: String,
        call: CallJson,
    },
    /// Behind a call.
    Behind,
}

impl Llama3Json {
    pub(super) fn push(&mut self, text: &str, parts: &mut Parts) {
        self.held.push_str(text);
        while self.step(parts) {}
    }

    /// Goes as far as one state goes. False if more text is awaited.
    fn step(&mut self, parts: &mut Parts) -> bool {
        match &mut self.state {
            State::Start => {
                if !self.try_call(char::is_whitespace, "") {
                    return false;
                }
            }
            State::Tagged => {
                if !self.try_call(char::is_whitespace, TAG) {
                    return false;
                }
                if let State::Content = self.state {
                    parts.content(TAG);
                }
            }
            State::Behind => {
                if !self.try_call(|c| c.is_whitespace() || c == ';' || c == '}', "") {
                    return false;
                }
                if let State::Content = self.state {
                    self.held = self.held.trim_start_matches(|c: char| c.is_whitespace() || c == '}').into();
                }
            }
            State::Content => {
                let Some(before) = content_before(&mut self.held, TAG, parts) else { return false };
                parts.content(before.trim_end_matches(TAG));
                self.state = State::Tagged;
            }
            State::Call { before, call } => match call.push(&std::mem::take(&mut self.held), parts) {
                Progress::More => return false,
                Progress::Done(behind) => {
                    self.held = behind;
                    self.state = State::Behind;
                }
                Progress::NoCall(text) => {
                    parts.content(before);
                    // Its brace is no beginning of a call once more.
                    self.held = text;
                    self.state = State::Content;
                }
            },
        }
        true
    }

    /// Goes to a call if one begins behind `skipped` characters, to content if not. False if that
    /// is not known yet.
    fn try_call(&mut self, skipped: impl Fn(char) -> bool, mark: &str) -> bool {
        let at = self.held.len() - self.held.trim_start_matches(skipped).len();
        let rest = &self.held[at..];
        if rest.starts_with('{') {
            let before = format!("{mark}{}", self.held.drain(..at).collect::<String>());
            self.state = State::Call { before, call: CallJson::new(false) };
        } else if mark.is_empty() && begins_with(rest, TAG) != Some(false) {
            if begins_with(rest, TAG).is_none() {
                return false;
            }
            self.held.drain(..at + TAG.len());
            self.state = State::Tagged;
        } else if rest.is_empty() {
            return false;
        } else {
            self.state = State::Content;
        }
        true
    }

    pub(super) fn finish(&mut self, parts: &mut Parts) {
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.state, State::Content) {
            State::Start | State::Content => parts.content(&held),
            State::Tagged => {
                parts.content(TAG);
                parts.content(&held);
            }
            State::Call { before, call } if !call.is_told() => {
                parts.content(&before);
                parts.content(&call.into_raw());
            }
            State::Call { .. } | State::Behind => {}
        }
    }
}
