//! Requests whose answers follow a grammar.

use std::sync::LazyLock;

use nvllm_core::{SamplingParams, TokenId};
use nvllm_engine::grammar::{Grammar, GrammarCompiler, StructuredOutput};
use nvllm_engine::{FinishReason, Generated, LoadOptions, Model, Request};
use serde_json::json;

use crate::support::{Plain, alone_and_in_company, end, in_time, model, options, parts, request, start};

static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(|| GrammarCompiler::new(&model()).unwrap());
static EOS: LazyLock<Vec<TokenId>> = LazyLock::new(|| {
    let model: &Model = &model();
    model.eos.clone()
});

fn compiled(output: &StructuredOutput) -> Grammar {
    COMPILER.compile(output).unwrap()
}

fn regex(regex: &str) -> Grammar {
    compiled(&StructuredOutput::Regex(regex.into()))
}

fn choice(texts: &[&str]) -> Grammar {
    compiled(&StructuredOutput::Choice(texts.iter().map(ToString::to_string).collect()))
}

/// Draws at random, and ends at the model's own tokens.
fn sampled(i: u32, max_tokens: usize, grammar: Option<Grammar>) -> Request {
    let sampling = SamplingParams {
        temperature: 1.0,
        seed: u64::from(i),
        stop_tokens: EOS.clone(),
        ..SamplingParams::default()
    };
    Request { sampling, logprobs: Some(2), grammar, ..request(i, max_tokens) }
}

#[test]
fn an_answer_follows_its_grammar_to_its_end() {
    in_time(|| {
        let engine = start(Plain, options());
        for seed in 0..6 {
            let Generated { text, finished, tokens, .. } =
                engine.generate(sampled(seed, 40, Some(choice(&["yes", "no way", "né"])))).unwrap();
            assert!(["yes", "no way", "né"].contains(&text.as_str()), "{text:?}");
            assert!(matches!(finished.reason, FinishReason::StopToken(token) if EOS.contains(&token)));
            assert_eq!(tokens.last().map(|token| EOS.contains(token)), Some(true));
        }
        let cut = engine.generate(sampled(1, 5, Some(regex("[a-z]{60}")))).unwrap();
        assert_eq!((cut.finished.reason, cut.tokens.len()), (FinishReason::Length, 5));
        assert!(cut.text.bytes().all(|byte| byte.is_ascii_lowercase()), "{}", cut.text);
        let schema = json!({"type": "object", "additionalProperties": false, "required": ["a", "b"], "properties":
            {"a": {"enum": ["red", "green"]}, "b": {"type": "integer", "minimum": 0, "maximum": 99}},
            // The demo model likes blanks.
            "x-guidance": {"whitespace_flexible": false}});
        let answer =
            engine.generate(sampled(2, 40, Some(compiled(&StructuredOutput::Json(schema))))).unwrap();
        let value: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert!(value["a"].is_string() && value["b"].as_u64().is_some_and(|b| b < 100), "{value}");
    });
}

#[test]
fn grammars_change_no_bit_of_others_nor_others_of_them() {
    in_time(|| {
        let string = || compiled(&StructuredOutput::Json(json!({"type": "string", "minLength": 200})));
        let requests = [
            sampled(0, 36, Some(regex("([a-z]+ ){40}"))),
            sampled(1, 36, None),
            sampled(2, 36, Some(string())),
            sampled(1, 36, Some(string())),
            sampled(0, 36, None),
            sampled(2, 36, Some(regex("([a-z]+ ){40}"))),
        ];
        let alone = alone_and_in_company(&requests);
        assert_ne!(alone[0].0, alone[4].0, "the grammar changes something");
    });
}

#[test]
fn each_choice_follows_by_itself() {
    in_time(|| {
        let engine = start(Plain, LoadOptions { max_in_flight: Some(2), ..options() });
        let structured = sampled(3, 24, Some(regex("[a-z]{1,4}( [a-z]{1,4}){8}")));
        let choices = engine.generate_choices(Request { n: Some(3), ..structured.clone() }).unwrap();
        assert_ne!(choices[0].tokens, choices[1].tokens);
        for (choice, together) in (0..).zip(&choices) {
            let mut alone = structured.clone();
            alone.sampling.choice = choice;
            assert_eq!(parts(together), parts(&engine.generate(alone).unwrap()), "choice {choice}");
        }
    });
}

#[test]
fn without_a_stop_token_an_answer_ends_where_nothing_may_follow() {
    in_time(|| {
        let engine = start(Plain, LoadOptions { max_in_flight: Some(2), ..options() });
        // Goes on as long as the grammar lets it.
        let ignoring = |grammar| {
            let mut request = sampled(1, 40, Some(grammar));
            request.sampling.stop_tokens.clear();
            engine.generate(request).unwrap()
        };
        let whole = ignoring(choice(&["yes, it is"]));
        assert_eq!((whole.text.as_str(), whole.finished.reason), ("yes, it is", FinishReason::Complete));
        assert_eq!(ignoring(regex("a+")).finished.reason, FinishReason::Length);
        let mut early = sampled(1, 40, Some(choice(&["yes"])));
        early.sampling.min_tokens = 30;
        let early = engine.generate(early).unwrap();
        assert_eq!((early.text.as_str(), early.finished.reason), ("yes", FinishReason::Complete));
        let mut later = sampled(1, 40, Some(regex("a+")));
        later.sampling.min_tokens = 20;
        assert!(engine.generate(later).unwrap().tokens.len() > 20);
    });
}

#[test]
fn what_a_request_bars_besides_holds_too() {
    in_time(|| {
        let engine = start(Plain, options());
        let id = |text: &str| {
            let ids = model().tokenizer().unwrap().encode(text, nvllm_engine::text::EncodeOptions::default());
            ids.unwrap().into_iter().map(TokenId).collect::<Vec<_>>()
        };
        let barred = Request { bad_words: vec![id("b")], ..sampled(1, 12, Some(regex("[ab]{12}"))) };
        let answer = engine.generate(barred).unwrap();
        assert!(!answer.text.is_empty() && answer.text.bytes().all(|byte| byte == b'a' || byte == b'b'));
        assert!(!answer.tokens.contains(&id("b")[0]), "{}", answer.text);
        // Nothing is left: the request's own fault, and nobody else's.
        let stuck = Request { allowed_tokens: Some(id("b")), ..sampled(1, 12, Some(choice(&["a"]))) };
        let failed = end(engine.stream(stuck).unwrap());
        assert_eq!((failed.reason, failed.output_tokens), (FinishReason::Barred, 0));
        assert!(failed.error.unwrap().contains("a grammar"));
        let stopped = Request { stop: vec!["b".into()], ..sampled(1, 40, Some(regex("a{3}b{30}"))) };
        let stopped = engine.generate(stopped).unwrap();
        assert_eq!((stopped.text.as_str(), stopped.finished.reason), ("aaa", FinishReason::StopString));
    });
}

#[test]
fn an_answer_begins_behind_open_thoughts() {
    in_time(|| {
        let engine = start(Plain, options());
        let tokenizer = model().tokenizer().unwrap().clone();
        let id = |name: &str| TokenId(tokenizer.token_id(name).unwrap());
        let mut request = sampled(1, 40, Some(choice(&["yes"])));
        request.prompt.push(id("<think>"));
        // The model is made to think one token and to end its thoughts.
        request.sampling.logit_bias = vec![(id("</think>"), 100.0)];
        let answer = engine.generate(request.clone()).unwrap();
        assert_eq!((answer.tokens[0], answer.text.as_str()), (id("</think>"), "</think>yes"));
        request.prompt.push(id("</think>"));
        assert_eq!(engine.generate(request).unwrap().text, "yes");
    });
}

#[test]
fn thoughts_are_cut_at_their_budget_and_an_answer_follows() {
    in_time(|| {
        let engine = start(Plain, options());
        let tokenizer = model().tokenizer().unwrap().clone();
        let id = |name: &str| TokenId(tokenizer.token_id(name).unwrap());
        let (begin, end) = (id("<think>"), id("</think>"));
        // Thoughts that would not end.
        let endless = |grammar| {
            let mut request = sampled(1, 40, grammar);
            request.sampling.logit_bias = vec![(end, -100.0)];
            request.thinking_budget = Some(5);
            request
        };
        // The prompt opens them,
        let mut open = endless(Some(choice(&["yes"])));
        open.prompt.push(begin);
        let answer = engine.generate(open.clone()).unwrap();
        assert_eq!(answer.tokens.iter().position(|token| *token == end), Some(5));
        assert!(answer.text.ends_with("</think>yes"), "{}", answer.text);
        // or the model does, which it may only where the request says so.
        let mut own = endless(Some(choice(&["yes"])));
        own.sampling.logit_bias.push((begin, 100.0));
        assert_eq!(engine.generate(own.clone()).unwrap().text, "yes");
        own.may_think = true;
        let answer = engine.generate(own.clone()).unwrap();
        assert_eq!((answer.tokens[0], answer.tokens[6]), (begin, end));
        assert!(answer.text.ends_with("</think>yes"), "{}", answer.text);
        // Not where the prompt has closed them.
        own.prompt.extend([begin, end]);
        assert_eq!(engine.generate(own).unwrap().text, "yes");
        // Without a grammar too; and the budget of what does not think is nothing.
        open.grammar = None;
        let free = engine.generate(open).unwrap();
        assert_eq!(free.tokens.iter().position(|token| *token == end), Some(5));
        let mut plain = sampled(2, 12, None);
        let as_it_is = engine.generate(plain.clone()).unwrap();
        plain.thinking_budget = Some(0);
        assert_eq!(parts(&engine.generate(plain).unwrap()), parts(&as_it_is));
    });
}
