//! One call as a JSON object: `{"name": "..", "arguments": {..}}`, or with `parameters`.
//!
//! Arguments are passed on as the model writes them, while it does. Braces are counted and no more
//! is checked: what a client is sent is what its model wrote.

use serde_json::Value;

use crate::answer::part::Parts;

/// Reads one call, from the first character of its object.
#[derive(Debug)]
pub(super) struct CallJson {
    /// Whether an object without arguments is a call.
    may_lack_arguments: bool,
    /// Whether the text is the arguments alone.
    is_bare: bool,
    state: State,
    /// What the key before the value says it is.
    role: Role,
    /// The key or the value that is being read, quotes included.
    word: String,
    name: Option<String>,
    /// Arguments that came before the name.
    arguments: Option<String>,
    /// All text, until the call is told.
    raw: String,
    is_told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before `{`.
    Object,
    /// Before a key, or `}`.
    Key,
    /// Before `:`.
    Colon,
    /// Before a value.
    Value,
    /// In a key or a value that is a string.
    Text { is_key: bool, escaped: bool },
    /// In an object or a list.
    Nested { depth: usize, in_text: bool, escaped: bool },
    /// In a number, `null`, `true` or `false`.
    Scalar,
    /// Behind a value.
    Comma,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Name,
    Arguments,
    Other,
}

/// How far a call is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More text is awaited.
    More,
    /// It is complete, and this text is behind it.
    Done(String),
    /// It is none: all of its text, and what came behind.
    NoCall(String),
}

/// What a character does to the object.
enum Next {
    Go(State),
    /// The object ends with it.
    End,
    /// The object is wrong from it on.
    Wrong,
}

impl CallJson {
    pub(super) fn new(may_lack_arguments: bool) -> Self {
        Self {
            may_lack_arguments,
            is_bare: false,
            state: State::Object,
            role: Role::Other,
            word: String::new(),
            name: None,
            arguments: None,
            raw: String::new(),
            is_told: false,
        }
    }

    /// Reads the arguments of a call whose name is known, from their first character.
    pub(super) fn arguments_of(name: String) -> Self {
        let call = Self::new(false);
        Self { is_bare: true, state: State::Value, role: Role::Arguments, name: Some(name), ..call }
    }

    /// Whether the call was told.
    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    /// The text of what is no call, as no more comes.
    pub(super) fn into_raw(self) -> String {
        self.raw
    }

    pub(super) fn push(&mut self, text: &str, parts: &mut Parts) -> Progress {
        let mut told = String::new();
        for (at, c) in text.char_indices() {
            if !self.is_told {
                self.raw.push(c);
            }
            let next = match self.next(c) {
                // A value that ends without a mark of its own ends before this character.
                Next::Go(State::Comma) if self.state == State::Scalar => {
                    self.end_value(parts);
                    self.state = State::Comma;
                    self.next(c)
                }
                next => next,
            };
            match next {
                Next::Go(state) => {
                    let was = std::mem::replace(&mut self.state, state);
                    self.take_in(c, was, &mut told, parts);
                    if self.is_bare && self.state == State::Comma {
                        parts.arguments(&told);
                        return Progress::Done(text[at + c.len_utf8()..].into());
                    }
                }
                Next::End => {
                    parts.arguments(&told);
                    return self.end(&text[at + c.len_utf8()..], parts);
                }
                // Its closing brace is missing.
                Next::Wrong if self.is_told => {
                    parts.arguments(&told);
                    return Progress::Done(text[at..].into());
                }
                Next::Wrong => return self.no_call(&text[at + c.len_utf8()..]),
            }
        }
        parts.arguments(&told);
        Progress::More
    }

    /// Where `c` leads to.
    fn next(&self, c: char) -> Next {
        let blank = c.is_ascii_whitespace();
        Next::Go(match (self.state, c) {
            (State::Object | State::Key | State::Colon | State::Value | State::Comma, _) if blank => {
                self.state
            }
            (State::Object, '{') | (State::Comma, ',') => State::Key,
            (State::Key, '"') => State::Text { is_key: true, escaped: false },
            (State::Key | State::Comma, '}') => return Next::End,
            (State::Colon, ':') => State::Value,
            (State::Value, '"') => State::Text { is_key: false, escaped: false },
            (State::Value, '{' | '[') => State::Nested { depth: 1, in_text: false, escaped: false },
            (State::Value | State::Scalar, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-')
            | (State::Scalar, '+' | '.') => State::Scalar,
            (State::Scalar, _)
            | (State::Text { is_key: false, escaped: false }, '"')
            | (State::Nested { depth: 1, in_text: false, .. }, '}' | ']') => State::Comma,
            (State::Text { is_key, escaped: true }, _) => State::Text { is_key, escaped: false },
            (State::Text { is_key, .. }, '\\') => State::Text { is_key, escaped: true },
            (State::Text { is_key: true, .. }, '"') => State::Colon,
            (State::Nested { depth, in_text: true, escaped }, _) => {
                State::Nested { depth, in_text: escaped || c != '"', escaped: !escaped && c == '\\' }
            }
            (State::Nested { depth, .. }, '"') => State::Nested { depth, in_text: true, escaped: false },
            (State::Nested { depth, .. }, '{' | '[') => {
                State::Nested { depth: depth + 1, in_text: false, escaped: false }
            }
            (State::Nested { depth, .. }, '}' | ']') => {
                State::Nested { depth: depth - 1, in_text: false, escaped: false }
            }
            (state @ (State::Text { .. } | State::Nested { .. }), _) => state,
            (State::Object | State::Key | State::Colon | State::Value | State::Comma, _) => {
                return Next::Wrong;
            }
        })
    }

    /// Takes in a character that led from `was` to where the reader is.
    fn take_in(&mut self, c: char, was: State, told: &mut String, parts: &mut Parts) {
        let is_value =
            |state| matches!(state, State::Nested { .. } | State::Scalar | State::Text { is_key: false, .. });
        match (was, self.state) {
            (State::Key | State::Text { is_key: true, .. }, State::Text { .. } | State::Colon) => {
                self.word.push(c);
                if self.state == State::Colon {
                    let key = std::mem::take(&mut self.word);
                    self.role = self.role_of(&key);
                }
            }
            (State::Value, State::Nested { .. }) if self.role == Role::Arguments && self.name.is_some() => {
                self.tell(parts);
                told.push(c);
            }
            (State::Nested { .. }, _) if self.role == Role::Arguments && self.is_told => {
                told.push(c);
                if self.state == State::Comma {
                    self.arguments = Some(String::new());
                }
            }
            _ if is_value(was) || is_value(self.state) => {
                if self.role != Role::Other {
                    self.word.push(c);
                }
                if self.state == State::Comma {
                    self.end_value(parts);
                }
            }
            _ => {}
        }
    }

    /// What the value behind a key is. The first of each kind counts.
    fn role_of(&self, key: &str) -> Role {
        match key {
            "\"name\"" if self.name.is_none() => Role::Name,
            "\"arguments\"" | "\"parameters\"" if self.arguments.is_none() => Role::Arguments,
            _ => Role::Other,
        }
    }

    /// A value is complete that was not told while it came.
    fn end_value(&mut self, parts: &mut Parts) {
        let word = std::mem::take(&mut self.word);
        match self.role {
            Role::Name => {
                let name = serde_json::from_str::<String>(&word).ok();
                self.name = name.filter(|name| !name.is_empty());
            }
            Role::Arguments => self.arguments = Some(plain_arguments(word)),
            Role::Other => return,
        }
        if let Some(arguments) = &self.arguments
            && self.name.is_some()
            && !self.is_told
        {
            let arguments = arguments.clone();
            self.tell(parts);
            parts.arguments(&arguments);
        }
    }

    fn tell(&mut self, parts: &mut Parts) {
        if let Some(name) = &self.name {
            parts.call(name);
            self.is_told = true;
            self.raw = String::new();
        }
    }

    /// The object is complete.
    fn end(&mut self, behind: &str, parts: &mut Parts) -> Progress {
        if !self.is_told && self.may_lack_arguments && self.name.is_some() && self.arguments.is_none() {
            self.tell(parts);
            parts.arguments("{}");
        }
        if self.is_told { Progress::Done(behind.into()) } else { self.no_call(behind) }
    }

    fn no_call(&mut self, behind: &str) -> Progress {
        Progress::NoCall(std::mem::take(&mut self.raw) + behind)
    }
}

/// The arguments that a value stands for: an object inside a string is that object, and `null` is
/// none.
fn plain_arguments(value: String) -> String {
    if value == "null" {
        return "{}".into();
    }
    match serde_json::from_str::<String>(&value) {
        Ok(text) if matches!(serde_json::from_str(&text), Ok(Value::Object(_))) => text,
        _ => value,
    }
}
