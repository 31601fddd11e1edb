//! The engine end to end: text in, text out, many requests at once, and what a client may do wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use nvllm_core::{Activations, Backend, Reference, SamplingParams, TokenId};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::text::ChatInput;
use nvllm_engine::{Engine, Event, FinishReason, Finished, Generated, LoadOptions, Model, Request};
use nvllm_tests::{golden_dir, model_dir};
use serde_json::Value;

fn model() -> Arc<Model> {
    Arc::new(Model::open(&ModelFiles::in_directory(&model_dir()).unwrap()).unwrap())
}

fn options() -> LoadOptions {
    LoadOptions {
        max_model_len: Some(512),
        max_num_batched_tokens: Some(64),
        activations: Some(Activations::F32),
        ..LoadOptions::default()
    }
}

fn start(model: &Arc<Model>, options: LoadOptions) -> Engine {
    let reference = || Ok(Box::new(Reference::default()) as Box<dyn Backend>);
    Engine::builder(Arc::clone(model), reference).options(options).start().unwrap()
}

/// Tokens, text and end of a request.
fn run(engine: &Engine, request: Request) -> (Vec<TokenId>, String, Finished) {
    let Generated { tokens, text, finished, .. } = engine.generate(request).unwrap();
    (tokens, text, finished)
}

fn ids(value: &Value) -> Vec<TokenId> {
    value.as_array().unwrap().iter().map(|id| TokenId(id.as_u64().unwrap() as u32)).collect()
}

fn greedy(model: &Model) -> SamplingParams {
    SamplingParams { stop_tokens: model.eos.clone(), ..SamplingParams::default() }
}

#[test]
fn golden_conversations_from_messages_to_text() {
    let model = model();
    let engine = start(&model, options());
    let golden: Value =
        serde_json::from_slice(&std::fs::read(golden_dir().join("nvllm-tiny.json")).unwrap()).unwrap();
    let mut chats = 0;
    for case in golden["cases"].as_array().unwrap() {
        let Some(messages) = case["input"].as_array() else { continue };
        let thinking =
            case["enable_thinking"].as_bool().map(|on| ("enable_thinking".to_owned(), Value::Bool(on)));
        let kwargs = thinking.into_iter().collect();
        let input = ChatInput {
            messages,
            tools: case["tools"].as_array().map(Vec::as_slice),
            documents: None,
            add_generation_prompt: true,
            template: None,
            kwargs: Some(&kwargs),
            now: None,
        };
        let prompt = model.chat_template.as_ref().unwrap().render(&input).unwrap();
        assert_eq!(prompt, case["prompt"].as_str().unwrap());
        let prompt =
            model.tokenizer().unwrap().encode(&prompt, nvllm_engine::text::EncodeOptions::default()).unwrap();
        let prompt: Vec<_> = prompt.into_iter().map(TokenId).collect();
        assert_eq!(prompt, ids(&case["prompt_ids"]));
        let expected = ids(&case["output_ids"]);
        let request = Request {
            prompt,
            sampling: greedy(&model),
            max_tokens: Some(expected.len()),
            include_stop: true,
            show_special_tokens: true,
            ..Request::default()
        };
        let (tokens, text, finished) = run(&engine, request);
        assert_eq!(tokens, expected);
        assert_eq!(text, case["output_text"].as_str().unwrap());
        assert_eq!(finished.output_tokens, expected.len());
        chats += 1;
    }
    assert!(chats >= 8, "{chats} conversations");
}

/// A batch of different requests gives each the tokens that it gets alone.
#[test]
fn tokens_do_not_depend_on_the_batch() {
    let model = model();
    let request = |i: u32| Request {
        prompt: (0..5 + 13 * i).map(|t| TokenId((t * 37 + i * 101) % 8000)).collect(),
        sampling: SamplingParams {
            temperature: 0.8,
            top_p: 0.9,
            repetition_penalty: 1.1,
            seed: u64::from(i),
            ..SamplingParams::default()
        },
        max_tokens: Some(12 + i as usize),
        ..Request::default()
    };
    let alone: BTreeMap<u32, _> = {
        let engine = start(&model, LoadOptions { max_num_seqs: Some(1), ..options() });
        (0..6).map(|i| (i, run(&engine, request(i)).0)).collect()
    };
    for (max_num_seqs, max_num_batched_tokens, block_size, max_in_flight) in
        [(6, Some(64), 16, Some(1)), (3, Some(17), 5, Some(2))]
    {
        let options = LoadOptions {
            max_num_seqs: Some(max_num_seqs),
            max_num_batched_tokens,
            block_size,
            max_in_flight,
            ..options()
        };
        let engine = start(&model, options);
        let mut streams: Vec<_> = (0..6).map(|i| (i, engine.stream(request(i)).unwrap())).collect();
        for (i, stream) in &mut streams {
            let mut tokens = Vec::new();
            while let Some(Event::Token { token, .. }) = stream.next() {
                tokens.push(token);
            }
            assert_eq!(tokens, alone[i], "request {i} among {max_num_seqs}");
        }
        let stats = engine.stats();
        assert_eq!((stats.num_running, stats.num_waiting, stats.used_blocks), (0, 0, 0));
    }
}

#[test]
fn a_stop_string_ends_the_text_before_itself() {
    let model = model();
    let engine = start(&model, options());
    let prompt = model
        .tokenizer()
        .unwrap()
        .encode("Once upon a time", nvllm_engine::text::EncodeOptions::default())
        .unwrap();
    let request = Request {
        prompt: prompt.into_iter().map(TokenId).collect(),
        sampling: greedy(&model),
        max_tokens: Some(24),
        ..Request::default()
    };
    let (_, whole, finished) = run(&engine, request.clone());
    assert_eq!(finished.reason, FinishReason::Length);
    // Cut in the middle of words, so that the stop string lies across token borders.
    let middle: String = whole.chars().skip(20).take(7).collect();
    let (tokens, text, finished) = run(&engine, Request { stop: vec![middle.clone()], ..request.clone() });
    assert_eq!(finished.reason, FinishReason::StopString);
    assert_eq!(text, whole[..whole.find(&middle).unwrap()]);
    assert!(tokens.len() < 24);
    let (_, text, _) = run(&engine, Request { stop: vec![middle.clone()], include_stop: true, ..request });
    assert!(text.ends_with(&middle));
}

#[test]
fn bad_requests_are_refused_with_a_reason() {
    let model = model();
    let engine = start(&model, options());
    let cases = [
        ("empty", Request::default()),
        ("context", Request { prompt: vec![TokenId(1); 600], ..Request::default() }),
        ("vocabulary", Request { prompt: vec![TokenId(9000)], ..Request::default() }),
        ("empty", Request { prompt: vec![TokenId(1)], stop: vec![String::new()], ..Request::default() }),
        (
            "temperature",
            Request {
                prompt: vec![TokenId(1)],
                sampling: SamplingParams { temperature: -1.0, ..SamplingParams::default() },
                ..Request::default()
            },
        ),
    ];
    for (word, request) in cases {
        let message = engine.stream(request).err().expect(word).to_string();
        assert!(message.contains(word), "{message}");
    }
    let options = LoadOptions { max_model_len: Some(1 << 20), ..options() };
    let reference = || Ok(Box::new(Reference::default()) as Box<dyn Backend>);
    let message = Engine::builder(model, reference).options(options).start().err().unwrap().to_string();
    assert!(message.contains("max-model-len"), "{message}");
}
