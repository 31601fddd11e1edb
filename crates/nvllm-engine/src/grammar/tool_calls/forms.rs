//! How calls of a format stand in an answer.

use serde_json::Value;

use crate::answer::Tool;

/// How calls of a format stand in an answer, as rules' names and literals.
pub(super) struct Forms {
    /// One call of each tool that may be called, without what is named below.
    pub(super) calls: Vec<String>,
    /// What tells a call from text.
    pub(super) mark: &'static str,
    /// What stands between the mark and the first call.
    pub(super) begin: &'static str,
    /// What stands between a call and the next one.
    pub(super) between: &'static str,
    /// What stands behind the last call.
    pub(super) end: &'static str,
}

/// The text of a JSON string, quotes included.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// What is wrong with the schema of a tool's arguments, as said of all tools.
pub(super) fn of_tool(tool: &Tool, problem: &str) -> String {
    format!("has the tool {:?}, whose schema {problem}", tool.name)
}
