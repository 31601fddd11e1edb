//! Calls of tools in an answer: one parser for each format.

mod call_json;
mod hermes;
mod llama3_json;
mod mistral;
mod qwen3_coder;

use std::sync::Arc;

use self::hermes::Hermes;
use self::llama3_json::Llama3Json;
use self::mistral::Mistral;
use self::qwen3_coder::Qwen3Coder;
use super::part::Parts;
use super::{Tool, ToolFormat};

/// The parser of an answer's text behind its thoughts.
#[derive(Debug)]
pub(super) enum CallParser {
    Hermes(Hermes),
    Qwen3Coder(Qwen3Coder),
    Llama3Json(Llama3Json),
    Mistral(Mistral),
}

impl CallParser {
    pub(super) fn new(format: ToolFormat, tools: &Arc<[Tool]>) -> Self {
        match format {
            ToolFormat::Hermes => Self::Hermes(Hermes::default()),
            ToolFormat::Qwen3Coder => Self::Qwen3Coder(Qwen3Coder::new(tools)),
            ToolFormat::Llama3Json => Self::Llama3Json(Llama3Json::default()),
            ToolFormat::Mistral => Self::Mistral(Mistral::default()),
        }
    }

    pub(super) fn push(&mut self, text: &str, parts: &mut Parts) {
        match self {
            Self::Hermes(parser) => parser.push(text, parts),
            Self::Qwen3Coder(parser) => parser.push(text, parts),
            Self::Llama3Json(parser) => parser.push(text, parts),
            Self::Mistral(parser) => parser.push(text, parts),
        }
    }

    pub(super) fn finish(&mut self, parts: &mut Parts) {
        match self {
            Self::Hermes(parser) => parser.finish(parts),
            Self::Qwen3Coder(parser) => parser.finish(parts),
            Self::Llama3Json(parser) => parser.finish(parts),
            Self::Mistral(parser) => parser.finish(parts),
        }
    }
}
