//! `<tool_call>{"name": .., "arguments": {..}}</tool_call>`.

use super::call_json::{CallJson, Progress};
use crate::answer::marks::{begins_with, content_before};
use crate::answer::part::Parts;

const BEGIN: &str = "<tool_call>";
const END: &str = "</tool_call>";

/// Reads calls between marks. White space around a call belongs to it, and so do braces too many
/// and a missing closing mark.
#[derive(Debug, Default)]
pub(in crate::answer) struct Hermes {
    state: State,
    /// What has come and is not looked at or not told yet.
    held: String,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Content,
    /// In a call. `before` is the mark that it begins with, and the ends of line before it.
    Call { before: String, call: CallJson },
    /// Behind a call's object.
    Behind,
}

impl Hermes {
    pub(super) fn push(&mut self, text: &str, parts: &mut Parts) {
        self.held.push_str(text);
        while self.step(parts) {}
    }

    /// Goes as far as one state goes. False if more text is awaited.
    fn step(&mut self, parts: &mut Parts) -> bool {
        match &mut self.state {
            State::Content => {
                let Some(before) = content_before(&mut self.held, BEGIN, parts) else { return false };
                self.state = State::Call { before, call: CallJson::new(true) };
                true
            }
            State::Call { before, call } => {
                match call.push(&std::mem::take(&mut self.held), parts) {
                    Progress::More => return false,
                    Progress::Done(behind) => {
                        self.held = behind;
                        self.state = State::Behind;
                    }
                    Progress::NoCall(text) => {
                        parts.content(before);
                        self.held = text;
                        self.state = State::Content;
                    }
                }
                true
            }
            State::Behind => {
                let skipped = self.held.trim_start_matches(|c: char| c.is_whitespace() || c == '}');
                self.held = skipped.into();
                match begins_with(&self.held, END) {
                    None => false,
                    Some(true) => {
                        self.held.drain(..END.len());
                        true
                    }
                    Some(false) => {
                        self.state = State::Content;
                        true
                    }
                }
            }
        }
    }

    pub(super) fn finish(&mut self, parts: &mut Parts) {
        let held = std::mem::take(&mut self.held);
        match std::mem::take(&mut self.state) {
            State::Content => parts.content(&held),
            State::Call { before, call } if !call.is_told() => {
                parts.content(&before);
                parts.content(&call.into_raw());
            }
            State::Call { .. } | State::Behind => {}
        }
    }
}
