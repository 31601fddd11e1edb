//! Calls whose arguments are one JSON object.

use super::ToolCalls;
use super::forms::{Forms, of_tool, quoted};
use crate::answer::Tool;
use crate::grammar::lark::Lark;
use crate::text::Tokenizer;

/// `before` and the tool's name, `middle`, its arguments, `behind`.
fn calls(
    calls: &ToolCalls,
    tools: &[&Tool],
    lark: &mut Lark<'_>,
    [before, middle, behind]: [&str; 3],
    is_json: bool,
) -> Result<Vec<String>, String> {
    let call = |tool: &&Tool| {
        let arguments = lark.json(&calls.schema(tool)).map_err(|problem| of_tool(tool, &problem))?;
        let name = if is_json { quoted(&tool.name) } else { tool.name.clone() };
        let head = lark.literal(&format!("{before}{name}{middle}"));
        let behind = if behind.is_empty() { String::new() } else { lark.literal(behind) };
        Ok(lark.rule(&format!("{head} {arguments} {behind}")))
    };
    tools.iter().map(call).collect()
}

pub(super) fn hermes(of: &ToolCalls, tools: &[&Tool], lark: &mut Lark<'_>) -> Result<Forms, String> {
    let form = ["\n{\"name\": ", ", \"arguments\": ", "}\n</tool_call>"];
    let calls = calls(of, tools, lark, form, true)?;
    Ok(Forms { calls, mark: "<tool_call>", begin: "", between: "\n<tool_call>", end: "" })
}

pub(super) fn llama3_json(of: &ToolCalls, tools: &[&Tool], lark: &mut Lark<'_>) -> Result<Forms, String> {
    let calls = calls(of, tools, lark, ["{\"name\": ", ", \"parameters\": ", "}"], true)?;
    Ok(Forms { calls, mark: "", begin: "", between: "; ", end: "" })
}

/// Vocabularies with `[ARGS]` are of models that write the name before it; those before them write
/// a list.
pub(super) fn mistral(
    of: &ToolCalls,
    tools: &[&Tool],
    lark: &mut Lark<'_>,
    tokenizer: &Tokenizer,
) -> Result<Forms, String> {
    if tokenizer.token_id("[ARGS]").is_some() {
        let calls = calls(of, tools, lark, ["", "[ARGS]", ""], false)?;
        return Ok(Forms { calls, mark: "[TOOL_CALLS]", begin: "", between: "[TOOL_CALLS]", end: "" });
    }
    let calls = calls(of, tools, lark, ["{\"name\": ", ", \"arguments\": ", "}"], true)?;
    let calls = vec![lark.any_of(&calls)];
    Ok(Forms { calls, mark: "[TOOL_CALLS]", begin: " [", between: ", ", end: "]" })
}
