//! Grammars against the demo model's vocabulary, without a model: tokens are drawn from the masks.

mod generated;
mod limits;
mod schemas;
mod structural_tags;
mod tools;
mod validate;

use std::path::Path;
use std::sync::LazyLock;

use nvllm_core::TokenId;
use serde_json::{Value, json};

use super::{Grammar, GrammarCompiler, GrammarMask, StructuredOutput};
use crate::answer::Thinking;
use crate::hub::ModelFiles;
use crate::text::EncodeOptions;
use crate::token_mask::{TokenMask as _, all_tokens};
use crate::{EngineError, Model};

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
    Model::open(&ModelFiles::in_directory(&dir).unwrap()).unwrap()
});

static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(|| GrammarCompiler::new(&MODEL).unwrap());

fn tokens(text: &str) -> Vec<TokenId> {
    let ids = MODEL.tokenizer().unwrap().encode(text, EncodeOptions::default()).unwrap();
    ids.into_iter().map(TokenId).collect()
}

fn problem(output: &StructuredOutput) -> String {
    match COMPILER.compile(output) {
        Err(EngineError::RequestField { field, problem }) => {
            assert_eq!(field, output.field());
            assert_eq!(problem.lines().count(), 1, "{problem}");
            problem
        }
        other => panic!("{output:?}: {other:?}"),
    }
}

/// How far a text is followed: whether all of it is allowed, and whether it may end there.
fn followed(output: &StructuredOutput, text: &str) -> (bool, bool) {
    let grammar = COMPILER.compile(output).unwrap_or_else(|e| panic!("{output:?}: {e}"));
    let mut rule = GrammarMask::new(&grammar, &MODEL.eos, Thinking::Over);
    let tokens = tokens(text);
    for at in 0..=tokens.len() {
        let mut mask = all_tokens(MODEL.spec.vocab_size);
        rule.restrict(&tokens[..at], &mut mask).unwrap();
        let allowed = |token: TokenId| mask[token.index() / 32] >> (token.index() % 32) & 1 == 1;
        for eos in &MODEL.eos {
            assert_eq!(allowed(*eos), rule.is_complete(), "{text:?} after {at} tokens");
        }
        match tokens.get(at) {
            Some(&token) if !allowed(token) => return (false, false),
            _ => {}
        }
    }
    (true, rule.is_complete())
}

fn takes(output: &StructuredOutput, text: &str) -> bool {
    followed(output, text) == (true, true)
}

fn schema(schema: Value) -> StructuredOutput {
    StructuredOutput::Json(schema)
}

#[test]
fn every_kind_takes_what_it_should_and_nothing_else() {
    let choice = StructuredOutput::Choice(vec!["yes".into(), "no \"way\"\n".into(), "nobody".into()]);
    let lark = StructuredOutput::Grammar(
        "start: greeting \" \" NAME\ngreeting: \"hi\" | \"hello\"\nNAME: /[A-Z][a-z]*/".into(),
    );
    for (output, good, bad) in [
        (
            StructuredOutput::JsonObject,
            &["{}", "{\"a\": [1, null, \"é\\n\"]}", "{\n  \"a\": {}\n}"][..],
            &["[]", "{", "1", " {}"][..],
        ),
        (schema(json!({"type": "integer"})), &["0", "-12"], &["1.5", "\"1\"", "01"]),
        (StructuredOutput::Regex("^[a-c]{2}/\\d+$".into()), &["ab/1", "cc/007"], &["ab/", "ab/1 ", "abc/1"]),
        (choice, &["yes", "no \"way\"\n", "nobody"], &["no", "Yes", "yess", ""]),
        (lark, &["hi Ann", "hello B"], &["hi ann", "hi", "hello  B"]),
    ] {
        for text in good {
            assert!(takes(&output, text), "{output:?} takes {text:?}");
        }
        for text in bad {
            assert!(!takes(&output, text), "{output:?} does not take {text:?}");
        }
    }
}

/// Each line of docs/structured-output.md about JSON.
#[test]
fn json_is_taken_as_the_documents_say() {
    let string = schema(json!({"type": "string"}));
    for (text, taken) in [
        ("\"\\n\"", true),
        ("\"é\"", true),
        ("\"\\u000a\"", true),
        ("\"\\u0041\"", false),
        ("\"\\/\"", false),
    ] {
        assert_eq!(takes(&string, text), taken, "{text}");
    }
    let ordered = schema(
        json!({"properties": {"b": {"type": "integer"}, "a": {"type": "integer"}}, "required": ["a", "b"],
                                "type": "object"}),
    );
    assert!(takes(&ordered, "{\"b\": 1, \"a\": 2}") && takes(&ordered, "{\"b\": 1, \"a\": 2, \"c\": 3}"));
    assert!(!takes(&ordered, "{\"a\": 1, \"b\": 2}"));
    let closed = schema(
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false}),
    );
    assert!(takes(&closed, "{}") && takes(&closed, "{\"a\": 1}") && !takes(&closed, "{\"c\": 3}"));
    let after = |blanks: &str| takes(&closed, &format!("{{{blanks}\"a\": 1}}"));
    assert!(after("") && after(" ") && after("\n") && after(&format!("\r\n{}", " ".repeat(32))));
    assert!(!after("  ") && !after("\n\n") && !after("\t") && !after(&format!("\n{}", " ".repeat(33))));
    let nullable = schema(json!({"type": "string", "nullable": true}));
    assert!(takes(&nullable, "null") && takes(&nullable, "\"a\""));
    let number = schema(json!({"type": "number", "minimum": 0}));
    assert!(takes(&number, "100000") && !takes(&number, "1e5") && !takes(&number, "-0.0"));
    let one_of = schema(json!({"oneOf": [{"type": "string"}, {"type": "integer"}]}));
    assert!(takes(&one_of, "1") && takes(&one_of, "\"a\""));
    let search = schema(json!({"type": "string", "pattern": "a+"}));
    assert!(takes(&search, "\"xaax\"") && !takes(&search, "\"x\""));
    let reference = schema(
        json!({"$ref": "#/$defs/list", "$defs": {"list": {"type": "object", "properties": {
        "next": {"anyOf": [{"$ref": "#/$defs/list"}, {"type": "null"}]}}, "required": ["next"], "additionalProperties": false}}}),
    );
    assert!(takes(&reference, "{\"next\": {\"next\": null}}"));
}

#[test]
fn what_is_wrong_or_not_supported_is_named() {
    for (output, named) in [
        (schema(json!({"type": "array", "uniqueItems": true})), "uniqueItems"),
        (schema(json!({"type": "string", "format": "regex"})), "regex"),
        (schema(json!({"type": "string", "pattern": "(?=a)b"})), "look"),
        (
            schema(json!({"oneOf": [{"type": "integer", "minimum": 1}, {"type": "integer", "maximum": 5}]})),
            "oneOf",
        ),
        (schema(json!({"type": "sting"})), "sting"),
        (schema(json!({"$ref": "#/$defs/none"})), "none"),
        (schema(json!({"$ref": "http://127.0.0.1:1/schema"})), "ref"),
        (schema(json!("text")), "object"),
        (schema(json!(false)), "false"),
        (schema(json!({"allOf": [{"type": "string"}, {"type": "integer"}]})), "nsatisfiable"),
        (StructuredOutput::Regex("(".into()), "cannot be followed"),
        (StructuredOutput::Regex("a(?!b)".into()), "look"),
        (StructuredOutput::Choice(vec![]), "is empty"),
        (StructuredOutput::Grammar("root ::= \"a\"".into()), "GBNF"),
        (StructuredOutput::Grammar(" \n".into()), "is empty"),
        (StructuredOutput::Grammar("start: missing".into()), "missing"),
        (StructuredOutput::Grammar("start: start".into()), "no text"),
        (schema(json!({"$ref": "#"})), "no text"),
    ] {
        let problem = problem(&output);
        assert!(problem.contains(named), "{output:?}: {problem}");
    }
}

#[test]
fn thoughts_are_free_and_the_answer_follows() {
    let id = |name: &str| TokenId(MODEL.tokenizer().unwrap().token_id(name).unwrap());
    let (begin, end, special) = (id("<think>"), id("</think>"), id("<|im_end|>"));
    let behind = |prompt: &[TokenId]| Thinking::behind(MODEL.tokenizer().unwrap(), prompt);
    let text = TokenId(5);
    let (within, ahead) = (Thinking::Within { end }, Thinking::Ahead { begin, end });
    assert_eq!(behind(&[text, begin, text]), within);
    assert_eq!(behind(&[begin, text, end, text]), Thinking::Over);
    for open in [&[][..], &[text], &[begin, special, text]] {
        assert_eq!(behind(open), ahead, "{open:?}");
    }
    assert_eq!((ahead.if_open(), within.if_open()), (Thinking::Over, within));
    let grammar = COMPILER.compile(&StructuredOutput::Choice(vec!["yes".into()])).unwrap();
    let mut rule = GrammarMask::new(&grammar, &MODEL.eos, within);
    let mut allowed = |output: &[TokenId]| {
        let mut mask = all_tokens(MODEL.spec.vocab_size);
        rule.restrict(output, &mut mask).unwrap();
        move |token: TokenId| mask[token.index() / 32] >> (token.index() % 32) & 1 == 1
    };
    let thought: Vec<_> = tokens("Hm, let me see");
    for at in 0..thought.len() {
        let free = allowed(&thought[..at]);
        assert!(free(text) && free(end) && !free(MODEL.eos[0]));
    }
    let yes = tokens("yes");
    let mut output = [&thought[..], &[end]].concat();
    for token in yes {
        let restricted = allowed(&output);
        assert!(restricted(token) && !restricted(end) && !restricted(MODEL.eos[0]));
        output.push(token);
    }
    let done = allowed(&output);
    assert!(done(MODEL.eos[0]) && !done(text));
    // A model that opens its thoughts itself, and one that answers at once.
    for (first, later) in [(begin, true), (tokens("yes")[0], false)] {
        let mut rule = GrammarMask::new(&grammar, &MODEL.eos, ahead);
        for (output, begins, thinks) in [(&[][..], true, false), (&[first], false, later)] {
            let mut mask = all_tokens(MODEL.spec.vocab_size);
            rule.restrict(output, &mut mask).unwrap();
            let allowed = |token: TokenId| mask[token.index() / 32] >> (token.index() % 32) & 1 == 1;
            assert_eq!((allowed(begin) && !thinks, allowed(end)), (begins, thinks), "{output:?}");
            assert!(!allowed(MODEL.eos[0]) || rule.is_complete());
        }
    }
}

#[test]
fn the_last_used_grammars_are_kept() {
    let compiler = GrammarCompiler::new(&MODEL).unwrap();
    let nth = |n: usize| StructuredOutput::Choice(vec![format!("text {n}")]);
    for n in 0..70 {
        compiler.compile(&nth(n)).unwrap();
        assert!(compiler.kept(&nth(0)).is_some(), "used all the time");
    }
    assert!(compiler.kept(&nth(69)).is_some() && compiler.kept(&nth(1)).is_none());
    let _: Grammar = compiler.compile(&nth(1)).unwrap();
}
