use serde_json::json;

use super::*;

fn coder() -> AnswerFormat {
    let tool = json!({"type": "function", "function": {"name": "search", "parameters": {"type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": "integer"},
            "exact": {"type": "boolean"},
            "fields": {"type": "array", "items": {"type": "string"}},
            "note": {"type": ["string", "null"]},
            "range": {"$ref": "#/$defs/range"}},
        "$defs": {"range": {"type": "object"}}}}});
    thinking(Some(ToolFormat::Qwen3Coder)).with_tools(vec![Tool::from_openai(&tool).unwrap()])
}

fn read(text: &str) -> Vec<AnswerPart> {
    parts(&coder(), false, text)
}

#[test]
fn values_have_the_types_of_the_tool_and_their_lines() {
    let text = "<think>\nhm\n</think>\n\nLet me look.\n<tool_call>\n<function=search>\n\
        <parameter=query>\nif a < b:\n\tprint(\"ü\\n\")\n\n</parameter>\n<parameter=limit>\n10\n</parameter>\n\
        <parameter=exact>\nTrue\n</parameter>\n<parameter=fields>\n[\"a\", \"b\"]\n</parameter>\n\
        <parameter=note>\nnull\n</parameter>\n<parameter=range>\n{\"from\": 1}\n</parameter>\n\
        <parameter=unknown>\n5\n</parameter>\n</function>\n</tool_call>";
    let arguments = r#"{"query": "if a < b:\n\tprint(\"ü\\n\")\n", "limit": 10, "exact": true, "fields": ["a", "b"], "note": null, "range": {"from": 1}, "unknown": "5"}"#;
    let expected = [vec![thought("hm"), content("Let me look.")], call(0, "search", arguments)].concat();
    assert_eq!(read(text), expected);
    let value: serde_json::Value = serde_json::from_str(arguments).unwrap();
    assert_eq!(value["query"], "if a < b:\n\tprint(\"ü\\n\")\n");
}

#[test]
fn several_calls_and_marks_that_are_left_out() {
    let one = |value: &str| format!("<function=search>\n<parameter=query>\n{value}\n</parameter>\n</function>");
    let told = |index, value: &str| call(index, "search", &format!("{{\"query\": \"{value}\"}}"));
    let (a, b) = (one("a"), one("b"));
    let both = [told(0, "a"), told(1, "b")].concat();
    assert_eq!(read(&format!("<tool_call>\n{a}\n</tool_call>\n<tool_call>\n{b}\n</tool_call>")), both);
    assert_eq!(read(&format!("{a}\n{b}")), both);
    assert_eq!(read(&format!("<tool_call>\n{a}\n</tool_call>\nDone.")), [told(0, "a"), vec![content("Done.")]].concat());
    for cut in ["</parameter>", "</function>", "</tool_call>"] {
        let whole = format!("<tool_call>\n{a}\n</tool_call>");
        assert_eq!(read(&whole.replace(&format!("{cut}\n"), "")), told(0, "a"), "without {cut}");
    }
    let open = "<function=search>\n<parameter=query>\na\n<parameter=limit>\n3\n</parameter></function>";
    assert_eq!(read(open), call(0, "search", r#"{"query": "a", "limit": 3}"#));
    assert_eq!(read("<tool_call>\n<function=now>\n</function>\n</tool_call>"), call(0, "now", "{}"));
}

#[test]
fn what_is_no_call_is_content_and_what_was_told_is_cut() {
    for text in [
        "<tool_call> is a mark",
        "a\n<tool_call>\n{\"name\": \"search\"}",
        "<function=\n>",
        "<function=>x",
        "<tool_call>\n<function=se",
        "a <parameter=b>",
    ] {
        assert_eq!(read(text), [content(text)]);
    }
    assert_eq!(read("<function=search>\n<parameter=query>\na \"b"), call(0, "search", "{\"query\": \"a \\\"b"));
    assert_eq!(read("<function=search>\n<parameter=limit>\n1"), call(0, "search", "{\"limit\": 1"));
    let junk = "<function=search>\nwell\n</function>";
    assert_eq!(read(junk), [call(0, "search", "{}"), vec![content("well\n</function>")]].concat());
}

#[test]
fn texts_are_told_while_they_come() {
    let mut parser = coder().parser(false);
    let more = |text: &str| AnswerPart::Arguments { index: 0, text: text.into() };
    for (text, told) in [
        ("<tool_call>\n<function=search", vec![]),
        (">\n", vec![AnswerPart::ToolCall { index: 0, name: "search".into() }, more("{")]),
        ("<parameter=query>\n", vec![more("\"query\": \"")]),
        ("one", vec![more("one")]),
        (" two\n", vec![more(" two")]),
        ("</parameter>\n", vec![more("\"")]),
        ("<parameter=limit>\n1", vec![more(", \"limit\": ")]),
        ("2\n</parameter>\n", vec![more("12")]),
        ("</function>\n</tool_call>", vec![more("}")]),
    ] {
        assert_eq!(parser.push(text), told, "{text:?}");
    }
}
