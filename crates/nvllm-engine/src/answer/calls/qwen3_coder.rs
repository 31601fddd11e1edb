//! `<tool_call><function=NAME><parameter=NAME>VALUE</parameter>..</function></tool_call>`, with
//! ends of line inside the marks.
//!
//! Values are written without quotes, so their types are those of the tool's schema. Texts are told
//! while they come, other values once they are complete.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::answer::Tool;
use crate::answer::kinds::Kinds;
use crate::answer::marks::{begins_with, certain, without_newlines};
use crate::answer::part::Parts;

const BEGIN: &str = "<tool_call>";
const END: &str = "</tool_call>";
const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

/// What ends a value. The mark that should is left out at times.
const VALUE_ENDS: [&str; 3] = [PARAMETER_END, "\n</function>", "\n<parameter="];

/// Bytes of the longest name.
const MAX_NAME: usize = 512;

#[derive(Debug)]
pub(in crate::answer) struct Qwen3Coder {
    tools: Arc<[Tool]>,
    state: State,
    /// What has come and is not looked at or not told yet.
    held: String,
}

#[derive(Debug)]
enum State {
    Content,
    /// Before a function's name. `before` is the mark of a call, and the ends of line before it.
    Head {
        before: String,
    },
    /// Before a parameter, or the function's end.
    Between {
        function: String,
        is_first: bool,
    },
    /// In a value.
    Value {
        function: String,
        kinds: Kinds,
        begun: bool,
    },
    /// Behind a function.
    Behind,
}

/// What a name inside a mark is.
enum Name {
    /// Its end has not come.
    Cut,
    None,
    Some {
        name: String,
        len: usize,
    },
}

impl Qwen3Coder {
    pub(in crate::answer) fn new(tools: &Arc<[Tool]>) -> Self {
        Self { tools: Arc::clone(tools), state: State::Content, held: String::new() }
    }

    pub(super) fn push(&mut self, text: &str, parts: &mut Parts) {
        self.held.push_str(text);
        while self.step(parts) {}
    }

    /// Goes as far as one state goes. False if more text is awaited.
    fn step(&mut self, parts: &mut Parts) -> bool {
        match std::mem::replace(&mut self.state, State::Content) {
            State::Content => self.content(parts),
            State::Head { before } => self.head(before, parts),
            State::Between { function, is_first } => self.between(function, is_first, parts),
            State::Value { function, kinds, begun } => self.value(function, kinds, begun, parts),
            State::Behind => self.behind(),
        }
    }

    fn content(&mut self, parts: &mut Parts) -> bool {
        let begin = self.held.find(BEGIN).map(|at| (at, BEGIN.len()));
        // The mark around the function is left out at times.
        let function = self.held.find(FUNCTION).map(|at| (at, 0));
        let Some((at, len)) = begin.into_iter().chain(function).min() else {
            let behind = self.held.split_off(certain(&self.held, &[BEGIN, FUNCTION]));
            parts.content(&std::mem::replace(&mut self.held, behind));
            return false;
        };
        let behind = self.held.split_off(at + len);
        let before = self.held.split_off(without_newlines(&self.held[..at]));
        parts.content(&std::mem::replace(&mut self.held, behind));
        self.state = State::Head { before };
        true
    }

    fn head(&mut self, before: String, parts: &mut Parts) -> bool {
        let blanks = self.held.len() - self.held.trim_start().len();
        let name = match begins_with(&self.held[blanks..], FUNCTION) {
            None => Name::Cut,
            Some(false) => {
                parts.content(&before);
                return true;
            }
            Some(true) => self.name(blanks + FUNCTION.len()),
        };
        match name {
            Name::Cut => {
                self.state = State::Head { before };
                false
            }
            Name::None => {
                parts.content(&before);
                parts.content(&self.held.drain(..blanks + FUNCTION.len()).collect::<String>());
                true
            }
            Name::Some { name, len } => {
                self.held.drain(..len);
                parts.call(&name);
                parts.arguments("{");
                self.state = State::Between { function: name, is_first: true };
                true
            }
        }
    }

    /// The name that begins at `from` and ends with `>`.
    fn name(&self, from: usize) -> Name {
        let text = &self.held[from..];
        match text.find(['>', '<', '\n']) {
            Some(0) => Name::None,
            Some(at) if text[at..].starts_with('>') && !text[..at].trim().is_empty() => {
                Name::Some { name: text[..at].trim().into(), len: from + at + 1 }
            }
            None if text.len() <= MAX_NAME => Name::Cut,
            _ => Name::None,
        }
    }

    fn between(&mut self, function: String, is_first: bool, parts: &mut Parts) -> bool {
        self.held.drain(..self.held.len() - self.held.trim_start().len());
        let [parameter, end, outer] =
            [PARAMETER, FUNCTION_END, END].map(|mark| begins_with(&self.held, mark));
        if end == Some(true) {
            self.held.drain(..FUNCTION_END.len());
        }
        let name = match (parameter, end, outer) {
            (_, Some(true), _) | (_, _, Some(true)) | (Some(false), Some(false), Some(false)) => Name::None,
            (Some(true), _, _) => self.name(PARAMETER.len()),
            _ => Name::Cut,
        };
        match name {
            Name::Cut => {
                self.state = State::Between { function, is_first };
                false
            }
            // The end, or something else in its place.
            Name::None => {
                parts.arguments("}");
                self.state = State::Behind;
                true
            }
            Name::Some { name, len } => {
                self.held.drain(..len);
                let kinds = self.kinds(&function, &name);
                let comma = if is_first { "" } else { ", " };
                let quote = if kinds.is_text() { "\"" } else { "" };
                parts.arguments(&format!("{comma}{}: {quote}", Value::from(name)));
                self.state = State::Value { function, kinds, begun: false };
                true
            }
        }
    }

    fn kinds(&self, function: &str, parameter: &str) -> Kinds {
        let tool = self.tools.iter().find(|tool| tool.name == function);
        let schema = tool
            .and_then(|tool| Some((tool.parameters.get("properties")?.get(parameter)?, &tool.parameters)));
        let (schema, root) = schema.unwrap_or((&Value::Null, &Value::Null));
        Kinds::of(schema, root)
    }

    fn value(&mut self, function: String, kinds: Kinds, begun: bool, parts: &mut Parts) -> bool {
        // The end of line behind the mark is no part of the value.
        if !begun && !self.held.is_empty() && self.held.starts_with('\n') && self.held.len() > 1 {
            self.held.remove(0);
        } else if !begun && (self.held.is_empty() || self.held == "\n") {
            self.state = State::Value { function, kinds, begun };
            return false;
        }
        let ends = VALUE_ENDS.iter().filter_map(|mark| Some((self.held.find(mark)?, *mark)));
        if let Some((at, mark)) = ends.min_by_key(|(at, _)| *at) {
            let behind = match mark {
                PARAMETER_END => at + mark.len(),
                // It begins what follows.
                _ => at + 1,
            };
            let value = &self.held[..at];
            let value = if mark == PARAMETER_END { value.strip_suffix('\n').unwrap_or(value) } else { value };
            let text = if kinds.is_text() { escaped(value) + "\"" } else { kinds.json(value) };
            parts.arguments(&text);
            self.held.drain(..behind);
            self.state = State::Between { function, is_first: false };
            return true;
        }
        if kinds.is_text() {
            let behind = self.held.split_off(certain(&self.held, &VALUE_ENDS));
            parts.arguments(&escaped(&std::mem::replace(&mut self.held, behind)));
        }
        self.state = State::Value { function, kinds, begun: true };
        false
    }

    fn behind(&mut self) -> bool {
        self.held.drain(..self.held.len() - self.held.trim_start().len());
        match begins_with(&self.held, END) {
            None => {
                self.state = State::Behind;
                false
            }
            Some(true) => {
                self.held.drain(..END.len());
                self.state = State::Behind;
                true
            }
            Some(false) => true,
        }
    }

    pub(super) fn finish(&mut self, parts: &mut Parts) {
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.state, State::Content) {
            State::Content => parts.content(&held),
            State::Head { before } => {
                parts.content(&before);
                parts.content(&held);
            }
            State::Value { kinds, .. } if kinds.is_text() => parts.arguments(&escaped(&held)),
            State::Value { .. } => parts.arguments(&held),
            State::Between { .. } | State::Behind => {}
        }
    }
}

/// A piece of text as it stands in a JSON string.
fn escaped(text: &str) -> String {
    let quoted = json!(text).to_string();
    quoted[1..quoted.len() - 1].into()
}
