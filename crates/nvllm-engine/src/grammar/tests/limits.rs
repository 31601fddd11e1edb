//! What is made to be expensive ends with an error or is compiled, and does not take the thread.

use std::fmt::Write as _;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::{Value, json};

use super::{COMPILER, MODEL, StructuredOutput, all_tokens, schema};
use crate::EngineError;
use crate::grammar::GrammarMask;
use crate::token_mask::TokenMask as _;

/// How long the worst may take on a machine that does other things.
const PATIENCE: Duration = Duration::from_mins(2);

fn nested(depth: usize, keyword: &str) -> Value {
    (0..depth).fold(json!({"type": "string"}), |inner, _| match keyword {
        "properties" => json!({"type": "object", "properties": {"a": inner}, "required": ["a"]}),
        "items" => json!({"type": "array", "items": inner}),
        _ => json!({keyword: [inner.clone(), {"type": "array", "items": inner, "maxItems": 2}]}),
    })
}

fn many(n: usize, property: impl Fn(usize) -> Value) -> Value {
    let properties: serde_json::Map<_, _> = (0..n).map(|i| (format!("key_{i}"), property(i))).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn hostile() -> Vec<StructuredOutput> {
    let mut ambiguous = String::from("start: x\nx: x x");
    for i in 0..20 {
        let _ = write!(ambiguous, " | \"{}\"", "a".repeat(i + 1));
    }
    let mut doubling = String::from("start: r30\nr0: \"a\"\n");
    for i in 1..=30 {
        let _ = writeln!(doubling, "r{i}: r{0} r{0}", i - 1);
    }
    let texts = (0..6000).map(|i| format!("choice number {i}")).collect();
    vec![
        StructuredOutput::Regex("(a{1000}){1000}".into()),
        StructuredOutput::Regex("((a{0,100}){0,100}){0,100}".into()),
        StructuredOutput::Regex("(a|aa)+$".into()),
        StructuredOutput::Regex("(.*a.*b.*c.*d.*e.*f.*g.*h.*){5}".into()),
        StructuredOutput::Regex(".*a.{30}".into()),
        StructuredOutput::Regex("(x+x+)+y".into()),
        StructuredOutput::Regex("[\\w\\W]{0,100000}".into()),
        StructuredOutput::Regex("(".repeat(10_000)),
        StructuredOutput::Regex(format!("{}a{}", "(".repeat(5000), ")".repeat(5000))),
        StructuredOutput::Choice(texts),
        StructuredOutput::Choice(vec!["x".repeat(100_000)]),
        StructuredOutput::Grammar(ambiguous),
        StructuredOutput::Grammar(doubling),
        StructuredOutput::Grammar("start: start".into()),
        StructuredOutput::Grammar("start: start start | ".into()),
        StructuredOutput::Grammar(format!("start: {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000))),
        StructuredOutput::Grammar(format!("start: {}\"a\"", "[".repeat(50_000))),
        schema(json!({"type": "array", "minItems": 1_000_000_000, "items": {"type": "integer"}})),
        schema(json!({"type": "array", "maxItems": 1_000_000, "items": {"type": "object"}})),
        schema(json!({"type": "string", "maxLength": 1_000_000_000})),
        schema(json!({"type": "string", "minLength": 100_000, "pattern": "a.*b"})),
        schema(json!({"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"})),
        schema(json!({"type": "integer", "multipleOf": 999_983, "minimum": 1})),
        schema(json!({"type": "number", "minimum": 1e-300, "maximum": 1e300})),
        schema(nested(60, "properties")),
        schema(nested(60, "items")),
        schema(nested(12, "anyOf")),
        schema(nested(10, "allOf")),
        schema(many(2000, |i| json!({"type": "string", "maxLength": i + 1}))),
        schema(many(500, |_| json!({"enum": (0..200).map(|i| format!("value {i}")).collect::<Vec<_>>()}))),
        schema(many(
            300,
            |i| json!({"type": "string", "pattern": format!("^[a-z]{{1,{i}}}[0-9]{{0,{i}}}$")}),
        )),
        schema(json!({"patternProperties": {"^(a|b)*c": true, "^(a|b)*d": true, ".*e{20}": true}})),
        schema(json!({"$ref": "#"})),
        schema(json!({"allOf": [{"$ref": "#"}]})),
        schema(
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        ),
    ]
}

/// Compiles it, and goes some tokens into it.
fn tried(output: &StructuredOutput) -> Result<(), String> {
    let grammar = COMPILER.compile(output).map_err(|error| match error {
        EngineError::RequestField { problem, .. } => problem,
        other => panic!("{other}"),
    })?;
    let mut rule = GrammarMask::new(&grammar, &MODEL.eos, crate::answer::Thinking::Over);
    let mut text = Vec::new();
    for _ in 0..20 {
        let mut mask = all_tokens(MODEL.spec.vocab_size);
        rule.restrict(&text, &mut mask)?;
        let allowed = (0..MODEL.spec.vocab_size as u32).rev().map(nvllm_core::TokenId);
        let mut allowed = allowed.filter(|token| mask[token.index() / 32] >> (token.index() % 32) & 1 == 1);
        let Some(token) = allowed.find(|token| !MODEL.eos.contains(token)) else { break };
        text.push(token);
    }
    Ok(())
}

#[test]
fn what_is_made_to_be_expensive_ends() {
    for output in hostile() {
        let (done, ended) = channel();
        let name = format!("{output:?}").chars().take(80).collect::<String>();
        let began = std::time::Instant::now();
        // As deep as the stacks of the threads that compile.
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        thread.spawn(move || done.send(tried(&output))).unwrap();
        let result = ended.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{name}: {e}"));
        println!("{:6} ms {name}: {result:?}", began.elapsed().as_millis());
        if let Err(problem) = result {
            assert_eq!(problem.lines().count(), 1, "{name}: {problem}");
        }
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let large = StructuredOutput::Regex("a".repeat(200_000));
    assert!(super::problem(&large).contains("200006 bytes"));
}
