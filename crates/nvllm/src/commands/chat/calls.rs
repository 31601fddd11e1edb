//! An answer that may call tools, as it is shown and as it is kept.

use std::path::Path;

use anstyle::Style;
use anyhow::{Context as _, Result, bail};
use nvllm_engine::answer::Tool;
use nvllm_engine::{AnswerFormat, AnswerParser, AnswerPart, Model};
use serde_json::{Value, json};

use crate::commands::prompts::read;

/// The tools of `--tools`, as the file has them and as the engine reads calls of them.
pub(super) struct Tools {
    pub list: Vec<Value>,
    pub format: AnswerFormat,
}

impl Tools {
    /// Reads a file with a JSON list of tools in OpenAI's form, for `model`.
    pub(super) fn open(path: &Path, model: &Model) -> Result<Self> {
        let text = read(path)?;
        let named = || format!("--tools {}", path.display());
        let list: Value =
            serde_json::from_str(&text).with_context(|| format!("{}: not valid JSON", named()))?;
        let Value::Array(list) = list else { bail!("{}: holds no list of tools", named()) };
        let tools = list.iter().enumerate().map(|(at, tool)| {
            Tool::from_openai(tool).map_err(|problem| anyhow::anyhow!("{}: entry {at} {problem}", named()))
        });
        let tools = tools.collect::<Result<Vec<_>>>()?;
        if tools.is_empty() {
            bail!("{}: holds no tools", named());
        }
        let format = AnswerFormat::of(model).with_tools(tools);
        if format.tools.is_none() {
            bail!(
                "--tools: the model's chat template does not show how it calls tools; use a model that is made for it"
            );
        }
        Ok(Self { list, format })
    }
}

/// A call of a tool.
#[derive(Debug)]
pub(super) struct Call {
    pub name: String,
    pub arguments: String,
}

/// An answer whose parts are told apart.
pub(super) struct WithCalls {
    parser: AnswerParser,
    dims: bool,
    reasoning: String,
    content: String,
    pub calls: Vec<Call>,
    /// Whether what was shown last is a call.
    in_call: bool,
}

impl WithCalls {
    pub(super) fn new(parser: AnswerParser, dims: bool) -> Self {
        Self {
            parser,
            dims,
            reasoning: String::new(),
            content: String::new(),
            calls: Vec::new(),
            in_call: false,
        }
    }

    /// What to print now that `text` has come.
    pub(super) fn push(&mut self, text: &str) -> String {
        let parts = self.parser.push(text);
        self.show(parts)
    }

    /// What to print now that nothing more comes.
    pub(super) fn finish(&mut self) -> String {
        let parts = self.parser.finish();
        self.show(parts)
    }

    fn show(&mut self, parts: Vec<AnswerPart>) -> String {
        let mut shown = String::new();
        for part in parts {
            match part {
                AnswerPart::Reasoning(text) => {
                    let style = if self.dims { Style::new().dimmed() } else { Style::new() };
                    shown += &format!("{style}{text}{style:#}");
                    self.reasoning += &text;
                }
                AnswerPart::Content(text) => {
                    if self.in_call {
                        shown += "\n";
                    } else if self.content.is_empty() && !self.reasoning.is_empty() {
                        shown += "\n\n";
                    }
                    self.in_call = false;
                    shown += &text;
                    self.content += &text;
                }
                AnswerPart::ToolCall { name, .. } => {
                    let is_first =
                        self.content.is_empty() && self.reasoning.is_empty() && self.calls.is_empty();
                    shown += if is_first { "" } else { "\n" };
                    shown += &format!("[call] {name} ");
                    self.in_call = true;
                    self.calls.push(Call { name, arguments: String::new() });
                }
                AnswerPart::Arguments { index, text } => {
                    shown += &text;
                    if let Some(call) = self.calls.get_mut(index) {
                        call.arguments += &text;
                    }
                }
            }
        }
        shown
    }

    /// The answer as a message, its calls numbered from `first` on in the conversation.
    pub(super) fn message(&self, first: usize) -> Value {
        let mut message = json!({ "role": "assistant", "content": self.content });
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = self.reasoning.as_str().into();
        }
        if !self.calls.is_empty() {
            let calls = self.calls.iter().enumerate().map(|(at, call)| {
                let function = json!({ "name": call.name, "arguments": call.arguments });
                json!({ "id": id(first + at), "type": "function", "function": function })
            });
            message["tool_calls"] = calls.collect();
        }
        message
    }
}

/// The result of a call, as a message.
pub(super) fn result(call: usize, text: &str) -> Value {
    json!({ "role": "tool", "tool_call_id": id(call), "content": text })
}

/// Nine letters and digits: Mistral's templates take no other.
fn id(call: usize) -> String {
    format!("call{call:05}")
}
