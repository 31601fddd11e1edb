//! Texts of all kinds of pieces, cut in all kinds of ways.

use proptest::prelude::*;

use super::*;

/// What marks and calls are made of, and what is near to them.
const WORDS: [&str; 40] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<",
    ">",
    "</",
    "\n",
    "\n\n",
    " ",
    "think",
    "a",
    "ü",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ":",
    ",",
    ";",
    "\"name\": \"f\"",
    "\"arguments\": {",
    "\"parameters\": ",
    "null",
    "1.5",
    "{\"name\": \"g\", \"arguments\": {\"a\": \"b\"}}",
    "<function=f>",
    "</function>",
    "<parameter=s>",
    "</parameter>",
    "<parameter=n>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|python_tag|>",
    "f",
    "[{\"name\": \"h\"",
    "\"s\": ",
];

fn tools() -> Vec<Tool> {
    let properties = serde_json::json!({"s": {"type": "string"}, "n": {"type": "integer"}});
    let parameters = serde_json::json!({"type": "object", "properties": properties});
    vec![Tool { name: "f".into(), parameters, strict: false }]
}

/// All text of the parts, marks left out.
fn text_len(parts: &[AnswerPart]) -> usize {
    let len = |part: &AnswerPart| match part {
        AnswerPart::Reasoning(text) | AnswerPart::Content(text) | AnswerPart::Arguments { text, .. } => {
            text.len()
        }
        AnswerPart::ToolCall { name, .. } => name.len(),
    };
    parts.iter().map(len).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn parts_do_not_depend_on_how_a_text_is_cut(
        words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        format in prop::sample::select(&ToolFormat::ALL[..]),
        opened: bool,
    ) {
        let text = words.concat();
        let format = thinking(Some(format)).with_tools(tools());
        let whole = parts_of(&format, opened, [text.as_str()]);
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let mut cuts: Vec<usize> = cuts.iter().filter(|_| !places.is_empty()).map(|cut| *cut.get(&places)).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        let mut from = 0;
        let pieces = cuts.iter().map(|&to| &text[std::mem::replace(&mut from, to)..to]).collect::<Vec<_>>();
        prop_assert_eq!(&parts_of(&format, opened, pieces), &whole);
        let chars = text.split_inclusive(|_| true);
        prop_assert_eq!(&parts_of(&format, opened, chars), &whole);
        // Values of Qwen3-Coder gain quotes and escapes on their way into JSON.
        prop_assert!(text_len(&whole) <= 8 * text.len() + 8);
        for part in &whole {
            if let AnswerPart::ToolCall { name, .. } = part {
                prop_assert!(!name.is_empty());
            }
        }
    }
}
