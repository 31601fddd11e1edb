//! Outputs of many schemas: those that end by themselves follow their schemas.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use nvllm_core::TokenId;
use regex::Regex;
use serde_json::Value;

use super::schemas::{Draw, count, draw};
use super::validate::broken;
use super::{COMPILER, MODEL, StructuredOutput, all_tokens};
use crate::grammar::{Grammar, GrammarMask};
use crate::token_mask::TokenMask as _;

const NUM_SCHEMAS: u64 = 1000;
/// Tokens of an output at most.
const MAX_TOKENS: usize = 400;

/// Tokens that begin with what ends a value, so that a random text has an end.
static ENDS: LazyLock<Vec<TokenId>> = LazyLock::new(|| {
    let tokenizer = MODEL.tokenizer().unwrap();
    let ends = |id: &u32| {
        tokenizer.token_bytes(*id).is_some_and(|bytes| bytes.first().is_some_and(|b| b"\"}],".contains(b)))
    };
    (0..MODEL.spec.vocab_size as u32).filter(ends).map(TokenId).collect()
});

/// An output of random tokens, and whether it ended by itself.
fn random_output(grammar: &Grammar, draw: &mut Draw) -> (String, bool) {
    let mut rule = GrammarMask::new(grammar, &MODEL.eos, crate::answer::Thinking::Over);
    let mut output = Vec::new();
    let mut ended = false;
    while output.len() < MAX_TOKENS && !ended {
        let mut mask = all_tokens(MODEL.spec.vocab_size);
        rule.restrict(&output, &mut mask).unwrap();
        let is_allowed = |token: &TokenId| mask[token.index() / 32] >> (token.index() % 32) & 1 == 1;
        if rule.is_complete() && draw.once_in(2) {
            ended = true;
            continue;
        }
        let all = (0..MODEL.spec.vocab_size as u32).map(TokenId);
        let mut allowed: Vec<_> = all.filter(is_allowed).filter(|token| !MODEL.eos.contains(token)).collect();
        let ends: Vec<_> = ENDS.iter().copied().filter(is_allowed).collect();
        if !ends.is_empty() && !draw.once_in(3) {
            allowed = ends;
        }
        match allowed.len() {
            0 => ended = true,
            num => output.push(allowed[draw.below(num)]),
        }
    }
    assert!(!ended || rule.is_complete());
    let ids: Vec<u32> = output.iter().map(|token| token.0).collect();
    (MODEL.tokenizer().unwrap().decode(&ids, false), ended)
}

/// The value of a text. Numbers beyond f64 are JSON, and are cut here.
fn parsed(text: &str) -> Value {
    static HUGE: LazyLock<Regex> = LazyLock::new(|| Regex::new("([0-9])[eE][+]?[0-9]{3,}").unwrap());
    let text = HUGE.replace_all(text, "${1}e0");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn outputs_that_end_follow_their_schemas() {
    let mut keywords = BTreeMap::new();
    let (mut num_ended, mut num_cut) = (0, 0);
    for seed in 0..NUM_SCHEMAS {
        let mut numbers = Draw::new(seed);
        let schema = draw(&mut numbers);
        count(&schema, &mut keywords);
        let output = StructuredOutput::Json(schema.clone());
        let grammar = COMPILER.compile(&output).unwrap_or_else(|e| panic!("{schema}: {e}"));
        let (text, ended) = random_output(&grammar, &mut numbers);
        if !ended {
            num_cut += 1;
            continue;
        }
        num_ended += 1;
        assert_eq!(broken(&schema, &parsed(&text), &schema), None, "{schema}\n{text}");
    }
    println!("{num_ended} ended, {num_cut} were cut; keywords: {keywords:?}");
    let often = keywords.values().filter(|times| **times >= 50).count();
    assert!(often >= 15, "{keywords:?}");
    assert!(num_ended > num_cut, "{num_ended} of {NUM_SCHEMAS} ended");
}
