//! Which marks a model's answers have.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Tool;
use super::reasoning::Reasoning;

/// How a model writes calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolFormat {
    /// `<tool_call>{"name": .., "arguments": {..}}</tool_call>`: Hermes, Qwen2.5, Qwen3.
    Hermes,
    /// `<tool_call><function=NAME><parameter=NAME>..</parameter></function></tool_call>`:
    /// Qwen3-Coder. A value's type is that of the tool's parameter.
    Qwen3Coder,
    /// The whole answer is `{"name": .., "parameters": {..}}`, several with `;` between: Llama 3.
    Llama3Json,
    /// `[TOOL_CALLS]` and then a JSON list of calls, or a name and its arguments: Mistral.
    Mistral,
}

impl ToolFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hermes, Self::Qwen3Coder, Self::Llama3Json, Self::Mistral];

    /// Its name, as vLLM has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::Qwen3Coder => "qwen3_coder",
            Self::Llama3Json => "llama3_json",
            Self::Mistral => "mistral",
        }
    }

    /// The texts that may be special tokens of a vocabulary and that calls are found by.
    pub(super) const fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::Qwen3Coder => &["<tool_call>", "</tool_call>"],
            Self::Llama3Json => &["<|python_tag|>"],
            Self::Mistral => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
        }
    }
}

impl fmt::Display for ToolFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no [`ToolFormat`] has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no format of tool calls that can be read; use one of hermes, qwen3_coder, llama3_json, mistral"
)]
pub struct UnknownToolFormat(String);

impl FromStr for ToolFormat {
    type Err = UnknownToolFormat;

    fn from_str(name: &str) -> Result<Self, UnknownToolFormat> {
        let mut all = Self::ALL.into_iter();
        all.find(|format| format.name() == name).ok_or_else(|| UnknownToolFormat(name.into()))
    }
}

/// How an answer is to be read. By default it is content, all of it.
#[derive(Clone, Debug, Default)]
pub struct AnswerFormat {
    /// The marks of thoughts; without them there are none.
    pub reasoning: Option<Reasoning>,
    /// How calls are written; without it there are none.
    pub tools: Option<ToolFormat>,
    /// The tools that may be called: where a format writes values without their types, they are
    /// found here.
    pub tool_list: Arc<[Tool]>,
}

impl AnswerFormat {
    /// The same format for a request with these tools. Without tools an answer has no calls, and
    /// what looks like one is content.
    #[must_use]
    pub fn with_tools(&self, tools: Vec<Tool>) -> Self {
        let format = self.tools.filter(|_| !tools.is_empty());
        Self { reasoning: self.reasoning.clone(), tools: format, tool_list: tools.into() }
    }

    /// The texts that the parser must see, as they are: where one of them is a special token, its
    /// text has to be shown ([`Request::show_special_tokens`](crate::Request)).
    pub(super) fn marks(&self) -> impl Iterator<Item = &str> {
        let thoughts = self.reasoning.iter().flat_map(|marks| [&*marks.begin, &*marks.end]);
        thoughts.chain(self.tools.into_iter().flat_map(|tools| tools.marks().iter().copied()))
    }
}
