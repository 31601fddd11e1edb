use super::*;

fn hermes() -> AnswerFormat {
    thinking(Some(ToolFormat::Hermes))
}

/// The parts of an answer without thoughts.
fn read(text: &str) -> Vec<AnswerPart> {
    parts(&hermes(), false, text)
}

#[test]
fn calls_as_the_template_writes_them() {
    let paris =
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>";
    let rome = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"unit\": \"c\"}}\n</tool_call>";
    let calls = [
        call(0, "get_weather", "{\"city\": \"Paris\"}"),
        call(1, "get_weather", "{\"city\": \"Rome\", \"unit\": \"c\"}"),
    ];
    assert_eq!(read(paris), calls[0]);
    assert_eq!(read(&format!("{paris}\n{rome}")), calls.concat());
    let before = [vec![content("Let me look.")], calls.concat()].concat();
    assert_eq!(read(&format!("Let me look.\n{paris}\n{rome}")), before);
    let thoughts = [vec![thought("need tools")], calls.concat()].concat();
    assert_eq!(read(&format!("<think>\nneed tools\n</think>\n\n{paris}\n{rome}")), thoughts);
    let behind = [calls[0].clone(), vec![content("Done.\n")]].concat();
    assert_eq!(read(&format!("{paris}\n\nDone.\n")), behind);
}

#[test]
fn arguments_are_as_the_model_writes_them() {
    for (object, arguments) in [
        (
            r#"{"arguments": {"a": [1, {"b": "}\"]</tool_call>"}]}, "name": "f"}"#,
            r#"{"a": [1, {"b": "}\"]</tool_call>"}]}"#,
        ),
        (r#"{"name":"f","arguments":{"a":1 , "a":2}}"#, r#"{"a":1 , "a":2}"#),
        (r#"{"id": "c1", "x": {"name": "g"}, "name": "f", "n": 1.5e3, "parameters": {}}"#, "{}"),
        (r#"{"name": "f", "arguments": "{\"a\": 1}"}"#, r#"{"a": 1}"#),
        (r#"{"name": "f", "arguments": "a"}"#, r#""a""#),
        (r#"{"name": "f", "arguments": null}"#, "{}"),
        (r#"{"name": "f", "arguments": 3}"#, "3"),
        (r#"{"name": "f", "arguments": [1, 2]}"#, "[1, 2]"),
        (r#"{"name": "f"}"#, "{}"),
        (r#"{"name": "f", "arguments": {"a": 1,}}"#, r#"{"a": 1,}"#),
        (r#"{"name": "\u0066", "arguments": {}, "arguments": {"a": 1}, "name": "g"}"#, "{}"),
        // A brace too few, and too many.
        (r#"{"name": "f", "arguments": {"a": {}}"#, r#"{"a": {}}"#),
        (r#"{"name": "f", "arguments": {"a": {}}}}"#, r#"{"a": {}}"#),
    ] {
        assert_eq!(
            read(&format!("<tool_call>\n{object}\n</tool_call>")),
            call(0, "f", arguments),
            "{object}"
        );
        assert_eq!(
            read(&format!("<tool_call>{object}")),
            call(0, "f", arguments),
            "{object}, no closing mark"
        );
    }
}

#[test]
fn what_is_no_call_is_content() {
    for text in [
        "I write <tool_call> here",
        "a\n<tool_call>\n</tool_call>",
        "<tool_call>[1]</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call> b",
        "<tool_call>{\"name\": 3, \"arguments\": {}}",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}",
        "<tool_call>{name: f}</tool_call>",
        "<tool_call>{\"name\": \"f",
        "<tool_call>{\"arguments\": {\"a\": 1",
        "a\n<tool_ca",
        "a\n\n",
    ] {
        assert_eq!(read(text), [content(text)]);
    }
    let second = "<tool_call>x<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    assert_eq!(read(second), [vec![content("<tool_call>x")], call(0, "f", "{}")].concat());
}

#[test]
fn a_call_that_was_told_stays_one_where_it_is_cut() {
    let begun = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b";
    assert_eq!(read(begun), call(0, "f", "{\"a\": \"b"));
    let unclosed = "<tool_call>{\"name\": \"f\", \"arguments\": {}}\nSo it is.";
    assert_eq!(read(unclosed), [call(0, "f", "{}"), vec![content("So it is.")]].concat());
}

#[test]
fn the_name_comes_first_and_arguments_as_soon_as_they_are_there() {
    let mut parser = hermes().parser(false);
    let name = || AnswerPart::ToolCall { index: 0, name: "f".into() };
    let more = |text: &str| AnswerPart::Arguments { index: 0, text: text.into() };
    for (text, told) in [
        ("Well.\n<tool_call>\n{\"name\": \"f", vec![content("Well.")]),
        ("\", \"argu", vec![]),
        ("ments\": ", vec![]),
        ("{\"a", vec![name(), more("{\"a")]),
        ("\": \"<", vec![more("\": \"<")]),
        ("\"}", vec![more("\"}")]),
        ("}\n</tool", vec![]),
        ("_call>", vec![]),
    ] {
        assert_eq!(parser.push(text), told, "{text:?}");
    }
    assert_eq!(parser.finish(), []);
    assert_eq!(parser.num_calls(), 1);
}
