//! What the tokens of an answer mean: thoughts, words, calls. The one place where their text passes
//! the model's format; all routes that have messages render what it gives.

use nvllm_core::TokenId;
use nvllm_engine::text::Tokenizer;
use nvllm_engine::{AnswerFormat, AnswerParser, AnswerPart, ToolFormat};
use uuid::Uuid;

use crate::wire::chat::Delta;
use crate::wire::tools::{CalledFunction, ToolCall};

/// How the answers to one prompt are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) format: AnswerFormat,
    /// Whether the prompt ends within thoughts.
    pub(crate) prompt_opens_thinking: bool,
    /// Whether thoughts are told.
    pub(crate) include_reasoning: bool,
    /// Whether an answer may have more than one call; later ones are left out if not.
    pub(crate) parallel_calls: bool,
}

impl Reading {
    /// A reader for one choice.
    pub(super) fn reader(&self, tokenizer: &Tokenizer) -> Reader {
        let parses = self.format.reasoning.is_some() || self.format.tools.is_some();
        let marks = self.format.reasoning.as_ref();
        let id = |mark: &str| tokenizer.token_id(mark).map(TokenId);
        Reader {
            parser: parses.then(|| self.format.parser(self.prompt_opens_thinking)),
            include_reasoning: self.include_reasoning,
            parallel_calls: self.parallel_calls,
            tools: self.format.tools,
            begin: marks.and_then(|marks| id(&marks.begin)),
            end: marks.and_then(|marks| id(&marks.end)),
            stage: if self.prompt_opens_thinking && marks.is_some() { Stage::Thoughts } else { Stage::Start },
            has_thought: false,
            has_called: false,
        }
    }
}

/// One choice's text on its way to its deltas.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "two wishes of the request, two facts of the answer")]
pub(super) struct Reader {
    /// `None` if all is content.
    parser: Option<AnswerParser>,
    include_reasoning: bool,
    parallel_calls: bool,
    tools: Option<ToolFormat>,
    /// The marks of thoughts, where they are tokens.
    begin: Option<TokenId>,
    end: Option<TokenId>,
    stage: Stage,
    has_thought: bool,
    has_called: bool,
}

/// Where a choice's tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has come that says.
    Start,
    Thoughts,
    Answer,
}

impl Reader {
    /// What a token's text says, and whether the token is one of the thoughts. Their marks are not.
    pub(super) fn token(&mut self, token: TokenId, text: String) -> (Vec<Delta>, bool) {
        let Some(parser) = &mut self.parser else { return (content(text), false) };
        let parts = if text.is_empty() { Vec::new() } else { parser.push(&text) };
        let is_thought = self.is_thought(token, &parts);
        (self.deltas(parts), is_thought)
    }

    /// What the end says: the text that was held back until then.
    pub(super) fn finish(&mut self, text: String) -> Vec<Delta> {
        let Some(parser) = &mut self.parser else { return content(text) };
        let mut parts = parser.push(&text);
        parts.extend(parser.finish());
        self.deltas(parts)
    }

    /// Whether the answer has had thoughts.
    pub(super) fn has_thought(&self) -> bool {
        self.has_thought
    }

    /// Whether the answer has had a call.
    pub(super) fn has_called(&self) -> bool {
        self.has_called
    }

    fn is_thought(&mut self, token: TokenId, parts: &[AnswerPart]) -> bool {
        match self.stage {
            Stage::Start if Some(token) == self.begin => {
                self.stage = Stage::Thoughts;
                return false;
            }
            Stage::Thoughts if Some(token) == self.end => {
                self.stage = Stage::Answer;
                return false;
            }
            _ => {}
        }
        let is_reasoning = |part: &AnswerPart| matches!(part, AnswerPart::Reasoning(_));
        if self.stage == Stage::Start && parts.iter().any(is_reasoning) {
            self.stage = Stage::Thoughts;
        }
        let is_thought = self.stage == Stage::Thoughts;
        if !parts.iter().all(is_reasoning) {
            self.stage = Stage::Answer;
        }
        is_thought
    }

    fn deltas(&mut self, parts: Vec<AnswerPart>) -> Vec<Delta> {
        parts.into_iter().filter_map(|part| self.delta(part)).collect()
    }

    fn delta(&mut self, part: AnswerPart) -> Option<Delta> {
        match part {
            AnswerPart::Reasoning(text) => {
                self.has_thought = true;
                self.include_reasoning.then(|| Delta { reasoning: Some(text), ..Delta::default() })
            }
            AnswerPart::Content(text) => Some(Delta { content: Some(text), ..Delta::default() }),
            AnswerPart::ToolCall { index, .. } | AnswerPart::Arguments { index, .. }
                if index > 0 && !self.parallel_calls =>
            {
                None
            }
            AnswerPart::ToolCall { index, name } => {
                self.has_called = true;
                let function = CalledFunction { name: Some(name), arguments: String::new() };
                let id = Some(call_id(self.tools));
                Some(call(ToolCall { index: Some(index), id, r#type: Some("function"), function }))
            }
            AnswerPart::Arguments { index, text } => {
                let function = CalledFunction { name: None, arguments: text };
                Some(call(ToolCall { index: Some(index), function, ..ToolCall::default() }))
            }
        }
    }
}

fn content(text: String) -> Vec<Delta> {
    if text.is_empty() { Vec::new() } else { vec![Delta { content: Some(text), ..Delta::default() }] }
}

fn call(call: ToolCall) -> Delta {
    Delta { tool_calls: vec![call], ..Delta::default() }
}

/// A new id of a call. Mistral's templates take nothing but nine letters and digits.
fn call_id(format: Option<ToolFormat>) -> String {
    let hex = Uuid::new_v4().simple().to_string();
    if format == Some(ToolFormat::Mistral) { hex[..9].to_owned() } else { format!("call_{}", &hex[..24]) }
}

#[cfg(test)]
mod tests {
    use nvllm_engine::answer::{Reasoning, Tool};
    use serde_json::json;

    use super::*;

    fn reader(reading: &Reading) -> Reader {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
        let model =
            nvllm_engine::Model::open(&nvllm_engine::hub::ModelFiles::in_directory(&dir).unwrap()).unwrap();
        reading.reader(model.tokenizer().unwrap())
    }

    fn reading() -> Reading {
        let tool = Tool { name: "f".into(), parameters: json!({ "type": "object" }), strict: false };
        let format = AnswerFormat {
            reasoning: Some(Reasoning::THINK),
            tools: Some(ToolFormat::Hermes),
            ..AnswerFormat::default()
        };
        Reading {
            format: format.with_tools(vec![tool]),
            prompt_opens_thinking: false,
            include_reasoning: true,
            parallel_calls: true,
        }
    }

    /// All that a text says, character by character: thoughts, words, and calls.
    fn read(reading: &Reading, text: &str) -> (String, String, Vec<ToolCall>) {
        let mut reader = reader(reading);
        let mut deltas = Vec::new();
        for character in text.chars() {
            deltas.extend(reader.token(TokenId(0), character.into()).0);
        }
        deltas.extend(reader.finish(String::new()));
        let all = |field: fn(&Delta) -> &Option<String>| {
            deltas.iter().filter_map(|delta| field(delta).as_deref()).collect()
        };
        let mut calls: Vec<ToolCall> = Vec::new();
        for call in deltas.iter().flat_map(|delta| delta.tool_calls.clone()) {
            match calls.get_mut(call.index.unwrap()) {
                Some(known) => {
                    assert!(
                        call.id.is_none() && call.r#type.is_none() && call.function.name.is_none(),
                        "{call:?}"
                    );
                    known.function.arguments += &call.function.arguments;
                }
                None => calls.push(call),
            }
        }
        (all(|delta| &delta.reasoning), all(|delta| &delta.content), calls)
    }

    const TEXT: &str = "<think>\nhm\n</think>\n\nLook:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";

    #[test]
    fn a_call_has_its_id_and_name_once_and_then_arguments() {
        let (thoughts, words, calls) = read(&reading(), TEXT);
        assert_eq!((thoughts.as_str(), words.trim_end()), ("hm", "Look:"));
        let names: Vec<_> = calls.iter().map(|call| call.function.name.as_deref().unwrap()).collect();
        let arguments: Vec<_> = calls.iter().map(|call| call.function.arguments.as_str()).collect();
        assert_eq!((names, arguments), (vec!["f", "g"], vec!["{\"a\": 1}", "{}"]));
        let ids: Vec<_> = calls.iter().map(|call| call.id.as_deref().unwrap()).collect();
        assert!(ids.iter().all(|id| id.starts_with("call_")) && ids[0] != ids[1], "{ids:?}");
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let reading = Reading { include_reasoning: false, parallel_calls: false, ..reading() };
        let (thoughts, _, calls) = read(&reading, TEXT);
        assert_eq!((thoughts.as_str(), calls.len()), ("", 1));
    }

    #[test]
    fn without_a_format_all_is_content() {
        let (thoughts, words, calls) = read(&Reading::default(), TEXT);
        assert_eq!((thoughts.as_str(), words.as_str(), calls.len()), ("", TEXT, 0));
    }

    #[test]
    fn tokens_of_thoughts_are_those_between_the_marks() {
        let count = |tokens: &[(Option<bool>, &str)], opened| {
            let mut reader = reader(&Reading { prompt_opens_thinking: opened, ..reading() });
            let (begin, end) = (reader.begin.unwrap(), reader.end.unwrap());
            let id = |mark: &Option<bool>| mark.map_or(TokenId(0), |begins| if begins { begin } else { end });
            tokens.iter().filter(|(mark, text)| reader.token(id(mark), (*text).into()).1).count()
        };
        let thought =
            [(Some(true), "<think>"), (None, "\n"), (None, "a"), (None, "b"), (Some(false), "</think>")];
        let answer = [(None, "\n\n"), (None, "c"), (None, "d")];
        assert_eq!(count(&[&thought[..], &answer].concat(), false), 3);
        assert_eq!(count(&[&thought[1..], &answer].concat(), true), 3);
        assert_eq!(count(&answer, false), 0);
        assert_eq!(count(&thought[..4], false), 3, "cut within a thought");
    }

    #[test]
    fn mistrals_ids_have_nine_letters_and_digits() {
        let id = call_id(Some(ToolFormat::Mistral));
        assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    }
}
