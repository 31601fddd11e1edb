//! Free text with parts that have a form.

use super::*;

fn tag(tag: Value) -> StructuredOutput {
    StructuredOutput::StructuralTag(tag)
}

fn old() -> StructuredOutput {
    let number = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
        "additionalProperties": false});
    tag(json!({"type": "structural_tag", "triggers": ["<function="], "structures": [
        {"begin": "<function=f>", "schema": number, "end": "</function>"},
        {"begin": "<function=g>", "schema": {"type": "string"}, "end": "</function>"}]}))
}

#[test]
fn behind_a_trigger_one_of_its_structures_follows() {
    for text in [
        "",
        "Hello <b>you</b>",
        "<function=f>{\"n\": 1}</function>",
        "Well, <function=g>\"a\"</function> and <function=f>{\"n\": 2}</function>.\n",
    ] {
        assert!(takes(&old(), text), "{text:?}");
    }
    for text in
        ["<function=h>", "<function=f>{\"n\": \"1\"}", "a <function=f>{\"n\": 1}</fun>", "a <function="]
    {
        assert!(!takes(&old(), text), "{text:?}");
    }
}

#[test]
fn formats_are_made_of_formats() {
    let number = json!({"type": "json_schema", "json_schema": {"type": "integer"}});
    let tags = json!([{"type": "tag", "begin": "<n>", "content": number, "end": "</n>"},
        {"begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"}]);
    let triggered = |more: Value| {
        let mut format = json!({"type": "triggered_tags", "triggers": ["<n>", "<t>"], "tags": tags});
        format.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tag(json!({"type": "structural_tag", "format": format}))
    };
    for (output, good, bad) in [
        (triggered(json!({})), &["", "a", "a <n>1</n> b <t>x\n</t>"][..], &["<n>a", "<t>x"][..]),
        (triggered(json!({"at_least_one": true})), &["<n>1</n>", "a <n>1</n> b"], &["", "a"]),
        (triggered(json!({"stop_after_first": true})), &["", "a <n>1</n>"], &["<n>1</n> b"]),
        (
            tag(json!({"format": {"type": "sequence", "elements": [
                {"type": "const_string", "value": "a: "},
                {"type": "or", "elements": [{"type": "regex", "pattern": "[a-c]/+"}, number]},
                {"type": "tag", "begin": "<t>", "content": number, "end": ""}]}})),
            &["a: b//<t>5", "a: 12<t>0"],
            &["a: d", "a: b/", "b"],
        ),
    ] {
        for text in good {
            assert!(takes(&output, text), "{output:?} takes {text:?}");
        }
        for text in bad {
            assert!(!takes(&output, text), "{output:?} does not take {text:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (value, named) in [
        (json!([]), "an object"),
        (json!({"type": "structural_tag"}), "`structures`"),
        (json!({"structures": [{"begin": "<a>", "end": "</a>"}], "triggers": ["<a>"]}), "`schema`"),
        (json!({"structures": [{"begin": "<a>", "schema": {}, "end": 1}], "triggers": ["<a>"]}), "`end`"),
        (
            json!({"structures": [{"begin": "<a>", "schema": {}, "end": "b"}], "triggers": ["<a>", "<"]}),
            "several of its triggers",
        ),
        (json!({"structures": [{"begin": "<a>", "schema": {}, "end": "b"}], "triggers": ["<b>"]}), "\"<a>\""),
        (
            json!({"structures": [{"begin": "<a>", "schema": {}, "end": "b"}], "triggers": ["<a>", "<b>"]}),
            "\"<b>\"",
        ),
        (
            json!({"structures": [{"begin": "<a>", "schema": {"type": "sting"}, "end": "b"}], "triggers": ["<a>"]}),
            "sting",
        ),
        (json!({"format": {"type": "grammar"}}), "\"grammar\""),
        (json!({"format": 1}), "no object"),
    ] {
        let problem = problem(&tag(value.clone()));
        assert!(problem.contains(named), "{value}: {problem}");
    }
    let mut deep = json!({"type": "any_text"});
    for _ in 0..40 {
        deep = json!({"type": "sequence", "elements": [deep]});
    }
    assert!(problem(&tag(json!({"format": deep}))).contains("nested"));
}
