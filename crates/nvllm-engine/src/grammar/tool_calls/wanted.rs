//! Which calls are wanted.

use serde_json::{Value, json};

use crate::answer::{Tool, ToolFormat};

/// Which tools an answer must call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model chooses: text, calls, or both.
    Auto,
    /// At least one call, and nothing else.
    Required,
    /// One call of this tool, and nothing else.
    Named(String),
}

/// Answers that call tools.
///
/// Where a call is required or named, and where its tool is
/// [`strict`](crate::answer::Tool::strict), its arguments are such that the tool's schema allows
/// them; otherwise they are some object.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCalls {
    /// How the model writes calls.
    pub format: ToolFormat,
    /// The tools, at least one.
    pub tools: Vec<Tool>,
    /// Which of them are to be called.
    pub choice: ToolChoice,
    /// Whether there may be several calls.
    pub parallel: bool,
}

impl ToolCalls {
    /// Whether they differ from free text: without a strict tool, and with several calls allowed, a
    /// model that may choose writes what it likes.
    pub fn restrict(&self) -> bool {
        self.choice != ToolChoice::Auto || !self.parallel || self.tools.iter().any(|tool| tool.strict)
    }

    /// The schema of a tool's arguments, as far as they are held to it.
    pub(super) fn schema(&self, tool: &Tool) -> Value {
        if self.choice == ToolChoice::Auto && !tool.strict {
            json!({ "type": "object" })
        } else {
            tool.parameters.clone()
        }
    }
}
