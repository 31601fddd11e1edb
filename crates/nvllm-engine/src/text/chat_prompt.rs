//! A conversation to the tokens of a prompt, with strangers' words kept apart from the template's.

use serde_json::{Map, Value as Json};

use super::chat_messages::for_template;
use super::special_names::Marks;
use super::{ChatInput, ChatTemplate, EncodeOptions, SpecialText, Tokenizer};
use crate::{EngineError, Result};

/// Roles of messages. Templates compare them and build special tokens from them (`<|user|>`).
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

impl ChatTemplate {
    /// The tokens of a conversation's prompt. If the name of a special token in the input is
    /// [`Literal`](SpecialText::Literal), it becomes the letters that it is written with, and only
    /// the template's own are special: who writes a message cannot end it. The input is all that a
    /// client gives: messages, tools, documents and the values of `kwargs`, a `bos_token` among
    /// them included. All other tokens are those that the tokenizer gives the rendered text.
    ///
    /// Names that are put together from several strings are letters too, except for those that
    /// begin with a letter or digit and those that the template itself begins: it may print `<|`
    /// before a role. The template sees a marked string one character longer for each name in it.
    ///
    /// Calls of tools may have the JSON text of their arguments, as clients send it, where
    /// templates expect the object, and thoughts may be called `reasoning` or `reasoning_content`.
    ///
    /// With `continues`, the prompt ends with the last message's text, so that the answer goes on
    /// with it.
    ///
    /// Errors as [`render`](Self::render) does; if the text cannot be encoded; or if the template
    /// does not print the last message's text, so that its end is not found.
    pub fn encode(
        &self,
        input: &ChatInput<'_>,
        continues: bool,
        special_text: SpecialText,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>> {
        let messages = for_template(input.messages);
        let input = &ChatInput { messages: messages.as_deref().unwrap_or(input.messages), ..*input };
        let touch = |text: &str, place| match place {
            Place::Key => tokenizer.special_names().touch_key(text),
            Place::Value => tokenizer.names_special(text),
        };
        let literal = special_text == SpecialText::Literal && any_string(input, &touch);
        if !literal && !continues {
            return tokenizer.encode(&self.render(input)?, EncodeOptions::default());
        }
        let marks = Marks::unused(&strings(input));
        let mut marked = Marked::copy(input);
        if literal {
            marked.replace(&|text, place| touch(text, place).then(|| tokenizer.mark_special(text, &marks)));
        }
        if continues {
            marked.mark_end(&marks)?;
        }
        let mut text = self.render(&marked.input(input))?;
        if continues {
            cut(&mut text, marks.end)?;
        }
        let (text, places) = marks.remove(&text);
        tokenizer.encode_marked(&text, &places)
    }
}

/// Where a string stands in a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Key,
    Value,
}

/// What a client gave, as a copy that is marked.
struct Marked {
    messages: Vec<Json>,
    tools: Option<Vec<Json>>,
    documents: Option<Vec<Json>>,
    kwargs: Option<Map<String, Json>>,
}

impl Marked {
    fn copy(input: &ChatInput<'_>) -> Self {
        Self {
            messages: input.messages.to_vec(),
            tools: input.tools.map(<[_]>::to_vec),
            documents: input.documents.map(<[_]>::to_vec),
            kwargs: input.kwargs.cloned(),
        }
    }

    /// The same input, with this in its place.
    fn input<'a>(&'a self, input: &ChatInput<'a>) -> ChatInput<'a> {
        ChatInput {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            documents: self.documents.as_deref(),
            kwargs: self.kwargs.as_ref(),
            ..*input
        }
    }

    /// Replaces the strings for which `mark` gives another.
    fn replace(&mut self, mark: &impl Fn(&str, Place) -> Option<String>) {
        for message in &mut self.messages {
            let role = message.get_mut("role").filter(|role| is_role(role)).map(Json::take);
            replace(message, mark);
            if let Some(role) = role {
                message["role"] = role;
            }
        }
        let lists = self.tools.iter_mut().chain(&mut self.documents).flatten();
        lists.for_each(|value| replace(value, mark));
        // The names of `kwargs` are variables, which no template prints.
        self.kwargs.iter_mut().flat_map(Map::values_mut).for_each(|value| replace(value, mark));
    }

    /// Marks the end of the last message's text, or of its last part that has one. A blank follows
    /// the mark, as in transformers: a template that trims a message takes it away.
    fn mark_end(&mut self, marks: &Marks) -> Result<()> {
        let text = self.messages.last_mut().and_then(|message| match message.get_mut("content") {
            Some(Json::String(text)) => Some(text),
            Some(Json::Array(parts)) => parts.iter_mut().rev().find_map(|part| match part {
                Json::String(text) => Some(text),
                _ => match part.get_mut("text") {
                    Some(Json::String(text)) => Some(text),
                    _ => None,
                },
            }),
            _ => None,
        });
        let text = text.ok_or_else(end_not_found)?;
        text.push(marks.end);
        text.push(' ');
        Ok(())
    }
}

fn is_role(role: &Json) -> bool {
    role.as_str().is_some_and(|role| ROLES.contains(&role))
}

/// Whether `test` holds for a string of the input. Roles are left out.
fn any_string<'a>(input: &ChatInput<'a>, test: &impl Fn(&'a str, Place) -> bool) -> bool {
    fn any_of<'a>(value: &'a Json, test: &impl Fn(&'a str, Place) -> bool) -> bool {
        match value {
            Json::String(text) => test(text, Place::Value),
            Json::Array(items) => items.iter().any(|item| any_of(item, test)),
            Json::Object(fields) => {
                fields.iter().any(|(key, value)| test(key, Place::Key) || any_of(value, test))
            }
            _ => false,
        }
    }
    let message = |message: &'a Json| match message {
        Json::Object(fields) => fields.iter().any(|(key, value)| {
            !(key == "role" && is_role(value)) && (test(key, Place::Key) || any_of(value, test))
        }),
        other => any_of(other, test),
    };
    input.messages.iter().any(message)
        || input.tools.into_iter().chain(input.documents).flatten().any(|value| any_of(value, test))
        || input.kwargs.into_iter().flat_map(Map::values).any(|value| any_of(value, test))
}

fn strings<'a>(input: &ChatInput<'a>) -> Vec<&'a str> {
    let strings = std::cell::RefCell::new(Vec::new());
    any_string(input, &|text, _| {
        strings.borrow_mut().push(text);
        false
    });
    strings.into_inner()
}

fn replace(value: &mut Json, mark: &impl Fn(&str, Place) -> Option<String>) {
    match value {
        Json::String(text) => {
            if let Some(marked) = mark(text, Place::Value) {
                *text = marked;
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| replace(item, mark)),
        Json::Object(fields) => {
            fields.values_mut().for_each(|field| replace(field, mark));
            if fields.keys().any(|key| mark(key, Place::Key).is_some()) {
                let renamed = std::mem::take(fields).into_iter();
                *fields =
                    renamed.map(|(key, field)| (mark(&key, Place::Key).unwrap_or(key), field)).collect();
            }
        }
        _ => {}
    }
}

/// Ends a rendered text with the last message's words. As in transformers, the blanks after them
/// stay unless the template trims messages.
fn cut(text: &mut String, end: char) -> Result<()> {
    let at = text.rfind(end).ok_or_else(end_not_found)?;
    let trimmed = !text[at + end.len_utf8()..].starts_with(' ');
    text.truncate(if trimmed { text[..at].trim_end().len() } else { at });
    Ok(())
}

fn end_not_found() -> EngineError {
    EngineError::ChatRejected {
        message: "the last message's text is not in the prompt, so an answer cannot go on with it".into(),
    }
}

#[cfg(test)]
mod tests;
