//! Answers in the forms that templates document, and in forms that models write instead, cut in
//! every way.

mod cuts;
mod hermes;
mod other_formats;
mod qwen3_coder;
mod reasoning;

use super::{AnswerFormat, AnswerPart, Reasoning, Tool, ToolFormat};

/// A format with thoughts.
fn thinking(tools: Option<ToolFormat>) -> AnswerFormat {
    AnswerFormat { reasoning: Some(Reasoning::THINK), tools, tool_list: [].into() }
}

/// The parts of an answer that comes in these pieces, those of a kind joined.
fn parts_of<'a>(
    format: &AnswerFormat,
    opened: bool,
    pieces: impl IntoIterator<Item = &'a str>,
) -> Vec<AnswerPart> {
    let mut parser = format.parser(opened);
    let mut parts: Vec<_> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
    parts.extend(parser.finish());
    assert_eq!(parser.finish(), [], "nothing is told twice");
    joined(parts)
}

fn joined(parts: Vec<AnswerPart>) -> Vec<AnswerPart> {
    use AnswerPart::{Arguments, Content, Reasoning};
    let mut joined: Vec<AnswerPart> = Vec::new();
    for part in parts {
        match (joined.last_mut(), &part) {
            (Some(Reasoning(last)), Reasoning(text)) | (Some(Content(last)), Content(text)) => {
                last.push_str(text);
            }
            (Some(Arguments { text: last, .. }), Arguments { text, .. }) => last.push_str(text),
            _ => joined.push(part),
        }
    }
    joined
}

/// The parts of `text`, which are the same whatever its pieces: whole, single characters, and cut
/// at each place.
fn parts(format: &AnswerFormat, opened: bool, text: &str) -> Vec<AnswerPart> {
    let whole = parts_of(format, opened, [text]);
    let chars: Vec<&str> = text.split_inclusive(|_| true).collect();
    assert_eq!(parts_of(format, opened, chars), whole, "in single characters: {text:?}");
    for (at, _) in text.char_indices() {
        let (left, right) = text.split_at(at);
        assert_eq!(parts_of(format, opened, [left, right]), whole, "{left:?} + {right:?}");
    }
    whole
}

fn thought(text: &str) -> AnswerPart {
    AnswerPart::Reasoning(text.into())
}

fn content(text: &str) -> AnswerPart {
    AnswerPart::Content(text.into())
}

/// A call with its arguments.
fn call(index: usize, name: &str, arguments: &str) -> Vec<AnswerPart> {
    let arguments = AnswerPart::Arguments { index, text: arguments.into() };
    vec![AnswerPart::ToolCall { index, name: name.into() }, arguments]
}

#[test]
fn without_marks_all_is_content_at_once() {
    let mut parser = AnswerFormat::default().parser(true);
    let text = "<think>a</think><tool_call>{}</tool_call>";
    assert_eq!(parser.push(text), [content(text)]);
    assert_eq!(parser.finish(), []);
}

#[test]
fn formats_have_the_names_of_vllm_and_others_are_refused_with_a_list() {
    for format in ToolFormat::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    let error = "pythonic".parse::<ToolFormat>().unwrap_err().to_string();
    assert!(error.contains("\"pythonic\""), "{error}");
    assert!(ToolFormat::ALL.iter().all(|format| error.contains(format.name())), "{error}");
}

#[test]
fn a_request_without_tools_has_no_calls() {
    let format = thinking(Some(ToolFormat::Hermes));
    assert_eq!(format.with_tools(Vec::new()).tools, None);
    let tool = Tool::from_openai(&serde_json::json!({"type": "function", "function": {"name": "f"}}));
    assert_eq!(format.with_tools(vec![tool.unwrap()]).tools, Some(ToolFormat::Hermes));
}
