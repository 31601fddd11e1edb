use super::*;

#[test]
fn thoughts_stand_before_the_answer_and_newlines_at_the_marks_belong_to_these() {
    for (text, expected) in [
        ("<think>\nhm\n</think>\n\nHello", vec![thought("hm"), content("Hello")]),
        ("<think>hm</think>Hello", vec![thought("hm"), content("Hello")]),
        ("\n <think>\n\n</think>\n\nHello", vec![content("Hello")]),
        ("<think>\na\n\nb\n\n</think>\n  Hi\n", vec![thought("a\n\nb"), content("  Hi\n")]),
        ("<think>a < b </thin k></think>c", vec![thought("a < b </thin k>"), content("c")]),
        // Cut short.
        ("<think>\nhm\n", vec![thought("hm\n")]),
        ("<think>hm</thi", vec![thought("hm</thi")]),
        ("<think>hm</think>\n", vec![thought("hm")]),
        ("<think>", vec![]),
        ("<thi", vec![content("<thi")]),
        // No thoughts.
        ("", vec![]),
        ("\n\nHello", vec![content("\n\nHello")]),
        ("<thinking>x", vec![content("<thinking>x")]),
        ("I write <think> and </think>.", vec![content("I write <think> and </think>.")]),
        ("<think>a</think>b<think>c</think>", vec![thought("a"), content("b<think>c</think>")]),
        ("a</think>b", vec![content("a</think>b")]),
    ] {
        assert_eq!(parts(&thinking(None), false, text), expected, "{text:?}");
    }
}

#[test]
fn a_prompt_that_opens_thoughts_begins_the_answer_with_them() {
    for (text, expected) in [
        ("hm\n</think>\n\nHello", vec![thought("hm"), content("Hello")]),
        ("</think>Hello", vec![content("Hello")]),
        ("<think>\nhm</think>Hello", vec![thought("hm"), content("Hello")]),
        ("hm, <think>?</think>Hello", vec![thought("hm, <think>?"), content("Hello")]),
        ("hm", vec![thought("hm")]),
        ("\nhm", vec![thought("hm")]),
        ("<thi", vec![thought("<thi")]),
        ("  hm", vec![thought("  hm")]),
    ] {
        assert_eq!(parts(&thinking(None), true, text), expected, "{text:?}");
    }
}

#[test]
fn nothing_is_held_back_but_what_may_be_a_mark() {
    let mut parser = thinking(Some(ToolFormat::Hermes)).parser(false);
    for (text, told) in [
        ("<", None),
        ("think>", None),
        ("a", Some(thought("a"))),
        (" < b\n", Some(thought(" < b"))),
        ("\n<", None),
        ("/", None),
        ("b>", Some(thought("\n\n</b>"))),
        ("</think>\n", None),
        ("c <tool", Some(content("c "))),
        ("box> d\n", Some(content("<toolbox> d"))),
        ("e", Some(content("\ne"))),
    ] {
        assert_eq!(parser.push(text), told.into_iter().collect::<Vec<_>>(), "{text:?}");
    }
}
