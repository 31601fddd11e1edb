use super::*;

#[test]
fn llama3_calls_are_the_whole_answer() {
    let read = |text: &str| parts(&thinking(Some(ToolFormat::Llama3Json)), false, text);
    let f = call(0, "f", "{\"a\": {\"b\": 1}}");
    for text in [
        "{\"name\": \"f\", \"parameters\": {\"a\": {\"b\": 1}}}",
        "\n\n{\"name\": \"f\", \"arguments\": {\"a\": {\"b\": 1}}}\n",
        "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": {\"b\": 1}}}",
        "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": {\"b\": 1}}}",
    ] {
        assert_eq!(read(text), f, "{text:?}");
    }
    let second = "{\"name\": \"f\", \"parameters\": {\"a\": {\"b\": 1}}}; {\"name\": \"g\", \"parameters\": {}}";
    assert_eq!(read(second), [f.clone(), call(1, "g", "{}")].concat());
    assert_eq!(read(&second.replace("; ", "\n")), [f.clone(), call(1, "g", "{}")].concat());
    let tagged = "Let me see. <|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": {\"b\": 1}}}";
    assert_eq!(read(tagged), [vec![content("Let me see. ")], f].concat());
    for text in [
        "{\"name\": \"Alice\", \"age\": 3}",
        "{\"name\": \"Alice\"",
        "{}",
        "A call is {\"name\": \"f\", \"parameters\": {}}",
        " \n",
        "<|python_tag|>print(1)",
        "<|python",
        "{\"answer\": 42} and words",
    ] {
        assert_eq!(read(text), [content(text)]);
    }
}

#[test]
fn mistral_calls_are_a_list_or_follow_their_names() {
    let read = |text: &str| parts(&thinking(Some(ToolFormat::Mistral)), false, text);
    let calls = [call(0, "f", "{\"a\": [1]}"), call(1, "g-2", "{}")].concat();
    for text in [
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": [1]}}, {\"name\": \"g-2\", \"arguments\": {}, \"id\": \"abcdefghi\"}]",
        "[TOOL_CALLS][{\"arguments\": {\"a\": [1]}, \"name\": \"f\"},{\"name\":\"g-2\"}]\n",
        "[TOOL_CALLS]f[ARGS]{\"a\": [1]}[TOOL_CALLS]g-2[ARGS]{}",
        "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{\"a\": [1]}[TOOL_CALLS]g-2[CALL_ID]xyz123456[ARGS]{}",
        "[TOOL_CALLS] f{\"a\": [1]}\n[TOOL_CALLS]g-2 {}",
    ] {
        let mut told = read(text);
        told.retain(|part| *part != content("\n"));
        assert_eq!(told, calls, "{text:?}");
    }
    let one = "Well.\n[TOOL_CALLS]{\"name\": \"f\", \"arguments\": {\"a\": [1]}}";
    assert_eq!(read(one), [vec![content("Well.")], calls[..2].to_vec()].concat());
    for text in [
        "[TOOL_CALLS]",
        "a\n[TOOL_CALLS] [1]",
        "[TOOL_CALLS] []",
        "[TOOL_CALLS]f[ARGS]1x",
        "[TOOL_CALLS]f g",
        "[TOOL_CALLS]f[ARGS",
        "[TOOL_CALLS]!",
        "[TOOL",
    ] {
        assert_eq!(read(text), [content(text)]);
    }
    assert_eq!(read("[TOOL_CALLS]f[ARGS]{\"a\": 1"), call(0, "f", "{\"a\": 1"));
}
