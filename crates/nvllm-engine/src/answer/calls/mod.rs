//! Calls of tools in an answer: one parser for each format.

mod call_json;
mod hermes;

use std::sync::Arc;

use self::hermes::Hermes;
use super::parser::Parts;
use super::{Tool, ToolFormat};

/// The parser of an answer's text behind its thoughts.
#[derive(Debug)]
pub(super) enum CallParser {
    Hermes(Hermes),
    /// Formats that are not read yet: all is content.
    Plain,
}

impl CallParser {
    pub(super) fn new(format: ToolFormat, _tools: &Arc<[Tool]>) -> Self {
        match format {
            ToolFormat::Hermes => Self::Hermes(Hermes::default()),
            _ => Self::Plain,
        }
    }

    pub(super) fn push(&mut self, text: &str, parts: &mut Parts) {
        match self {
            Self::Hermes(parser) => parser.push(text, parts),
            Self::Plain => parts.content(text),
        }
    }

    pub(super) fn finish(&mut self, parts: &mut Parts) {
        match self {
            Self::Hermes(parser) => parser.finish(parts),
            Self::Plain => {}
        }
    }
}
