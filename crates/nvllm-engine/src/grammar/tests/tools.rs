//! Answers that call tools.

use super::*;
use crate::answer::{AnswerFormat, AnswerPart, Tool, ToolFormat};
use crate::grammar::{ToolCalls, ToolChoice};

fn tools(strict: bool) -> Vec<Tool> {
    let search = json!({"type": "object", "required": ["query"], "additionalProperties": false, "properties": {
        "query": {"type": "string"}, "limit": {"type": "integer"}, "unit": {"enum": ["c", "f"]}}});
    vec![
        Tool { name: "search".into(), parameters: search, strict },
        Tool { name: "now".into(), parameters: json!({"type": "object", "properties": {}}), strict: false },
    ]
}

fn calls(format: ToolFormat, choice: ToolChoice, strict: bool) -> ToolCalls {
    ToolCalls { format, tools: tools(strict), choice, parallel: true }
}

/// A call of `search` and one of `now`, as templates write them, and a call whose arguments the
/// schema does not allow.
fn texts(format: ToolFormat) -> [&'static str; 3] {
    match format {
        ToolFormat::Hermes => [
            "<tool_call>\n{\"name\": \"search\", \"arguments\": {\"query\": \"a \\\"b\\\" <tool_call>\", \"limit\": 3, \"unit\": \"c\"}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"search\", \"arguments\": {\"limit\": 3}}\n</tool_call>",
        ],
        ToolFormat::Qwen3Coder => [
            "<tool_call>\n<function=search>\n<parameter=query>\nif a < b:\n  \"c\"\n</parameter>\n<parameter=limit>\n3\n</parameter>\n<parameter=unit>\nc\n</parameter>\n</function>\n</tool_call>",
            "<tool_call>\n<function=now>\n</function>\n</tool_call>",
            "<tool_call>\n<function=search>\n<parameter=limit>\n3\n</parameter>\n</function>\n</tool_call>",
        ],
        ToolFormat::Llama3Json => [
            "{\"name\": \"search\", \"parameters\": {\"query\": \"a\", \"limit\": 3}}",
            "{\"name\": \"now\", \"parameters\": {}}",
            "{\"name\": \"search\", \"parameters\": {\"limit\": 3}}",
        ],
        ToolFormat::Mistral => [
            "[TOOL_CALLS] [{\"name\": \"search\", \"arguments\": {\"query\": \"a\", \"limit\": 3}}]",
            "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}]",
            "[TOOL_CALLS] [{\"name\": \"search\", \"arguments\": {\"limit\": 3}}]",
        ],
    }
}

/// Two calls in one answer.
fn both(format: ToolFormat) -> String {
    let [search, now, _] = texts(format);
    match format {
        ToolFormat::Hermes | ToolFormat::Qwen3Coder => format!("{search}\n{now}"),
        ToolFormat::Llama3Json => format!("{search}; {now}"),
        ToolFormat::Mistral => search.replace(']', "") .replace("[TOOL_CALLS", "[TOOL_CALLS]") + ", " + &now["[TOOL_CALLS] [".len()..],
    }
}

fn is_taken(calls: &ToolCalls, text: &str) -> bool {
    takes(&StructuredOutput::ToolCalls(calls.clone()), text)
}

#[test]
fn required_calls_are_calls_and_nothing_else() {
    for format in ToolFormat::ALL {
        let [search, now, wrong] = texts(format);
        let required = calls(format, ToolChoice::Required, false);
        assert!(required.restrict());
        for text in [search, now, &both(format)] {
            assert!(is_taken(&required, text), "{format} takes {text:?}");
        }
        for text in ["", "Hello", wrong, &format!("Well. {now}"), &format!("{now} Well."), &now.replace("now", "never")] {
            assert!(!is_taken(&required, text), "{format} does not take {text:?}");
        }
        let one = ToolCalls { parallel: false, ..required };
        assert!(is_taken(&one, search) && !is_taken(&one, &both(format)), "{format}");
    }
}

#[test]
fn a_named_tool_is_called_once() {
    for format in ToolFormat::ALL {
        let [search, now, wrong] = texts(format);
        let named = calls(format, ToolChoice::Named("search".into()), false);
        assert!(is_taken(&named, search), "{format}");
        for text in [now, wrong, &both(format), "Hello"] {
            assert!(!is_taken(&named, text), "{format}: {text:?}");
        }
        let unknown = calls(format, ToolChoice::Named("never".into()), false);
        let problem = problem(&StructuredOutput::ToolCalls(unknown));
        assert!(problem.contains("\"never\"") && problem.contains("search, now"), "{problem}");
    }
}

#[test]
fn a_model_that_may_choose_is_held_to_strict_tools_only() {
    for format in ToolFormat::ALL {
        let [search, now, wrong] = texts(format);
        let auto = calls(format, ToolChoice::Auto, true);
        assert!(auto.restrict() && !calls(format, ToolChoice::Auto, false).restrict());
        for text in ["", "Hello <tool", "a\nb {}", search, now, &both(format)] {
            assert!(is_taken(&auto, text), "{format} takes {text:?}");
        }
        assert!(!is_taken(&auto, wrong), "{format}");
        let loose = ToolCalls { parallel: false, ..calls(format, ToolChoice::Auto, false) };
        assert!(loose.restrict(), "one call at most is a restriction");
        assert!(is_taken(&loose, "Hello") && is_taken(&loose, wrong) && !is_taken(&loose, &both(format)), "{format}");
        if format != ToolFormat::Llama3Json {
            assert!(is_taken(&auto, &format!("Let me look.\n{search}")), "{format}: text before a call");
            assert!(!is_taken(&auto, &format!("Let me look.\n{wrong}")), "{format}: text before a call");
        }
        if let ToolFormat::Hermes | ToolFormat::Qwen3Coder = format {
            assert!(is_taken(&auto, &format!("a\n{now}\nb\n{search} c")), "{format}: text between calls");
        }
    }
}

/// What the grammars allow, the parsers read, with arguments that the schemas allow.
#[test]
fn what_is_taken_is_read_as_calls() {
    for format in ToolFormat::ALL {
        let answer = AnswerFormat { tools: Some(format), ..AnswerFormat::default() }.with_tools(tools(true));
        let mut parser = answer.parser(false);
        let mut parts = parser.push(&both(format));
        parts.extend(parser.finish());
        let mut read: Vec<(String, String)> = Vec::new();
        for part in parts {
            match part {
                AnswerPart::ToolCall { name, .. } => read.push((name, String::new())),
                AnswerPart::Arguments { index, text } => read[index].1 += &text,
                other => panic!("{format}: {other:?}"),
            }
        }
        let names: Vec<_> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["search", "now"], "{format}");
        let arguments: Value = serde_json::from_str(&read[0].1).unwrap();
        assert!(arguments["query"].is_string() && arguments["limit"] == 3, "{format}: {arguments}");
        assert_eq!(read[1].1, "{}");
    }
}

#[test]
fn schemas_that_cannot_be_followed_are_named_with_their_tool() {
    for (format, parameters, named) in [
        (ToolFormat::Hermes, json!({"type": "object", "properties": {"a": {"type": "sting"}}}), "sting"),
        (ToolFormat::Qwen3Coder, json!({"type": "object", "minProperties": 1}), "`minProperties`"),
        (
            ToolFormat::Qwen3Coder,
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "a+"}}}),
            "`pattern`",
        ),
    ] {
        let tool = Tool { name: "search".into(), parameters, strict: true };
        let calls = ToolCalls { format, tools: vec![tool], choice: ToolChoice::Required, parallel: true };
        let problem = problem(&StructuredOutput::ToolCalls(calls));
        assert!(problem.contains(named), "{problem}");
    }
    let none = ToolCalls { format: ToolFormat::Hermes, tools: vec![], choice: ToolChoice::Auto, parallel: true };
    assert!(problem(&StructuredOutput::ToolCalls(none)).contains("no tools"));
}
