//! Embeddings: what a prompt's is depends on the prompt alone, and nobody who generates notices.

use nvllm_core::{DType, EntryId, Executable, HostTensor, Result, Step, StepOutput, Ticket, TokenId};
use nvllm_engine::{Embedding, Engine, Event, FinishReason, Health, LoadOptions, Request};

use crate::support::{self, Hooks, Plain, end, in_time, model, options, request, start};

fn embeddings() -> LoadOptions {
    LoadOptions { embeddings: true, block_size: 4, ..options() }
}

/// The prompt of [`request`], to be embedded.
fn embed(i: u32) -> Request {
    Request { prompt: request(i, 0).prompt, ..Request::default() }
}

fn bits(embedding: &Embedding) -> Vec<u32> {
    embedding.values.iter().map(|x| x.to_bits()).collect()
}

/// Tokens and scores of a request that generates.
fn generated(stream: impl Iterator<Item = Event>) -> Vec<(TokenId, u32)> {
    let token = |event| match event {
        Event::Token { token, logprobs, .. } => Some((token, logprobs.expect("scores").logprob.to_bits())),
        _ => None,
    };
    stream.filter_map(token).collect()
}

fn scored(i: u32) -> Request {
    Request { logprobs: Some(0), ..request(i, 6) }
}

/// The longest prompts that fit, alone on an engine of its own.
fn alone(i: u32) -> Vec<u32> {
    let engine = start(Plain, LoadOptions { max_num_batched_tokens: Some(64), ..embeddings() });
    let embedding = engine.embed(embed(i)).unwrap();
    assert_eq!(embedding.values.len(), model().spec.hidden_size().unwrap());
    let finished = &embedding.finished;
    assert_eq!((finished.reason, finished.output_tokens), (FinishReason::Length, 0));
    assert_eq!(finished.prompt_tokens, embed(i).prompt.len());
    bits(&embedding)
}

#[test]
fn an_embedding_depends_on_its_prompt_alone() {
    in_time(|| {
        let expected = [0, 3, 7].map(|i| (i, alone(i)));
        assert_ne!(expected[0].1, expected[1].1);
        for (max_num_batched_tokens, max_in_flight) in [(1, 1), (5, 2), (16, 3)] {
            let max_num_batched_tokens = Some(max_num_batched_tokens);
            let options =
                LoadOptions { max_num_batched_tokens, max_in_flight: Some(max_in_flight), ..embeddings() };
            let engine = start(Plain, options);
            // Among those that generate, whose prompts begin alike.
            let streams = [0, 3, 5].map(|i| engine.stream(scored(i)).unwrap());
            for (i, expected) in &expected {
                assert_eq!(bits(&engine.embed(embed(*i)).unwrap()), *expected, "{max_num_batched_tokens:?}");
            }
            streams.into_iter().for_each(|stream| assert_eq!(end(stream).reason, FinishReason::Length));
        }
    });
}

#[test]
fn a_prefix_is_shared_between_those_that_generate_and_those_that_are_embedded() {
    in_time(|| {
        let engine = start(Plain, embeddings());
        let first = generated(engine.stream(scored(3)).unwrap());
        let hit = engine.embed(embed(3)).unwrap();
        assert_eq!((hit.finished.cached_tokens, bits(&hit)), (16, alone(3)));
        // The other way round.
        engine.reset_prefix_cache();
        assert_eq!(engine.embed(embed(3)).unwrap().finished.cached_tokens, 0);
        let again = engine.generate(scored(3)).unwrap();
        assert_eq!(again.finished.cached_tokens, 16);
        assert_eq!(generated(engine.stream(scored(3)).unwrap()), first);
    });
}

#[test]
fn who_generates_does_not_notice_those_that_are_embedded() {
    in_time(|| {
        let engine = start(Plain, options());
        let expected = [1, 4].map(|i| generated(engine.stream(scored(i)).unwrap()));
        let engine = start(Plain, embeddings());
        let streams = [1, 4].map(|i| engine.stream(scored(i)).unwrap());
        let embedded: Vec<_> =
            (0..6).map(|i| engine.stream(Request { embed: true, ..embed(i) }).unwrap()).collect();
        assert_eq!(streams.map(generated), expected);
        for stream in embedded {
            let events: Vec<_> = stream.collect();
            assert!(matches!(events[..], [Event::Embedding { .. }, Event::Finished(_)]), "{events:?}");
        }
        let stats = engine.stats();
        assert_eq!((stats.finished.length, stats.num_running, stats.used_blocks), (8, 0, 0));
    });
}

#[test]
fn an_async_task_gets_the_same() {
    let engine = start(Plain, embeddings());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let embedding = runtime.block_on(engine.embed_async(embed(3))).unwrap();
    assert_eq!(embedding.values, engine.embed(embed(3)).unwrap().values);
}

#[test]
fn what_an_embedding_has_no_use_for_is_refused_by_its_field() {
    let engine = start(Plain, embeddings());
    for (field, request) in [
        ("max_tokens", Request { max_tokens: Some(1), ..embed(1) }),
        ("allowed_tokens", Request { allowed_tokens: Some(vec![TokenId(1)]), ..embed(1) }),
        ("bad_words", Request { bad_words: vec![vec![TokenId(1)]], ..embed(1) }),
        ("stop", Request { stop: vec!["a".into()], ..embed(1) }),
        ("logprobs", Request { logprobs: Some(0), ..embed(1) }),
        ("prompt_logprobs", Request { prompt_logprobs: Some(0), ..embed(1) }),
        ("logits", Request { logits: true, ..embed(1) }),
        ("n", Request { n: Some(2), ..embed(1) }),
        ("the prompt", Request::default()),
        ("the prompt", Request { prompt: vec![TokenId(1); 65], ..Request::default() }),
    ] {
        let message = engine.embed(request).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{field} ")), "{field}: {message}");
    }
    // All of the context.
    engine.embed(Request { prompt: vec![TokenId(1); 64], n: Some(1), ..Request::default() }).unwrap();
}

#[test]
fn a_model_that_was_not_loaded_for_it_says_so() {
    let engine = start(Plain, options());
    let message = engine.embed(embed(1)).unwrap_err().to_string();
    assert!(message.starts_with("--embeddings is off"), "{message}");
    let memory = |options| start(Plain, options).info().unwrap().memory;
    assert_eq!(memory(options()), memory(LoadOptions { embeddings: true, ..options() }));
}

/// Spoils the rows of the second program.
#[derive(Clone, Default)]
struct Spoiled {
    hidden: bool,
}

impl Hooks for Spoiled {
    fn submit(&mut self, inner: &mut dyn Executable, step: &Step) -> Result<Ticket> {
        self.hidden = step.entry != EntryId::GENERATE;
        inner.submit(step)
    }

    fn collect(&mut self, inner: &mut dyn Executable, ticket: Ticket) -> Result<StepOutput> {
        let mut output = inner.collect(ticket)?;
        for row in output.rows.iter_mut().filter(|_| self.hidden) {
            row.values = Some(Box::new(HostTensor::from_f32([2], DType::F32, &[1.0, f32::NAN])));
        }
        Ok(output)
    }
}

#[test]
fn an_embedding_that_is_not_numbers_fails_and_no_other_request() {
    let options = LoadOptions { max_in_flight: Some(1), ..embeddings() };
    let engine: Engine = support::start(Spoiled::default(), options);
    let stream = engine.stream(request(2, 4)).unwrap();
    let message = engine.embed(embed(3)).unwrap_err().to_string();
    assert!(message.contains("hidden states are not numbers (NaN or infinity)"), "{message}");
    assert_eq!((end(stream).reason, engine.health()), (FinishReason::Length, Health::Serving));
}
