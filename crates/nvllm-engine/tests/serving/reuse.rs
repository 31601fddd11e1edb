//! What the KV cache keeps, and what happens when it is full: only times and counts may tell.

use nvllm_engine::{Event, Generated, LoadOptions, Request};

use crate::support::{Plain, in_time, options, request, start};

fn tokens(generated: &Generated) -> (Vec<u32>, Option<f32>) {
    let tokens = generated.tokens.iter().map(|token| token.0).collect();
    (tokens, generated.logprobs.last().map(|scores| scores.logprob))
}

#[test]
fn a_prompt_takes_over_a_prefix_that_the_cache_has() {
    in_time(|| {
        let engine = start(Plain, LoadOptions { block_size: 4, ..options() });
        let with = |salt: Option<&str>| {
            let cache_salt = salt.map(String::from);
            engine.generate(Request { cache_salt, logprobs: Some(0), ..request(3, 4) }).unwrap()
        };
        let first = with(None);
        // 18 tokens: four full blocks.
        for (salt, cached) in [(None, 16), (Some("a"), 0), (Some("a"), 16), (None, 16)] {
            let again = with(salt);
            assert_eq!(again.finished.cached_tokens, cached, "{salt:?}");
            assert_eq!(tokens(&again), tokens(&first));
        }
        // The output is kept too: as the beginning of the next turn's prompt.
        let prompt = [request(3, 4).prompt, first.tokens].concat();
        let turn = engine.generate(Request { prompt, ..request(3, 1) }).unwrap();
        assert_eq!(turn.finished.cached_tokens, 20);
        let stats = engine.stats();
        assert_eq!((stats.num_queried_tokens, stats.num_cached_tokens), (5 * 18 + 22, 3 * 16 + 20));
    });
}

#[test]
fn after_a_reset_no_prefix_from_before_is_found() {
    in_time(|| {
        let engine = start(Plain, LoadOptions { block_size: 4, ..options() });
        let generate = || engine.generate(request(3, 4)).unwrap();
        let cached = |generated: &Generated| generated.finished.cached_tokens;
        let first = generate();
        assert_eq!(cached(&generate()), 16);
        engine.reset_prefix_cache();
        let again = generate();
        assert_eq!((cached(&again), tokens(&again)), (0, tokens(&first)));
        assert_eq!(cached(&generate()), 16);
        // Of one that runs meanwhile neither what it has computed is found nor what it goes on to.
        let mut runs = engine.stream(request(4, 24)).unwrap();
        let mut all = request(4, 24).prompt;
        let mut tokens_of = |event| {
            if let Event::Token { token, .. } = event {
                all.push(token);
            }
        };
        tokens_of(runs.next().unwrap());
        engine.reset_prefix_cache();
        runs.for_each(tokens_of);
        assert_eq!(all.len(), 23 + 24);
        let turn = engine.generate(Request { prompt: all, ..request(4, 1) }).unwrap();
        assert_eq!(cached(&turn), 0);
    });
}

#[test]
fn scores_of_a_prompt_are_computed_whatever_the_cache_has() {
    in_time(|| {
        let engine = start(Plain, LoadOptions { block_size: 4, ..options() });
        let scored = || Request { prompt_logprobs: Some(0), ..request(3, 2) };
        let [first, again] = [scored(), scored()].map(|request| engine.generate(request).unwrap());
        assert_eq!((first.prompt_logprobs.len(), again.finished.cached_tokens), (17, 0));
        assert_eq!(first.prompt_logprobs, again.prompt_logprobs);
    });
}

#[test]
fn without_the_prefix_cache_every_prompt_is_computed() {
    in_time(|| {
        let options = LoadOptions { enable_prefix_caching: false, block_size: 4, ..options() };
        let engine = start(Plain, options);
        for _ in 0..2 {
            assert_eq!(engine.generate(request(3, 2)).unwrap().finished.cached_tokens, 0);
        }
    });
}

/// Three requests that need 60 tokens each, in a cache for 64.
#[test]
fn who_is_preempted_goes_on_as_if_nothing_had_happened() {
    in_time(|| {
        let bytes_of = |engine: &nvllm_engine::Engine| engine.info().unwrap().memory.kv;
        let whole = start(Plain, LoadOptions { block_size: 4, ..options() });
        let kv_bytes = bytes_of(&whole) / 3;
        let requests = || (0..3).map(|i| Request { logprobs: Some(0), ..request(i, 40) });
        let alone: Vec<_> = requests().map(|request| whole.generate(request).unwrap()).collect();
        let kv_cache_bytes = Some(kv_bytes.next_multiple_of(1024) + 64 * 1024);
        let small = start(Plain, LoadOptions { block_size: 4, kv_cache_bytes, ..options() });
        let streams: Vec<_> = requests().map(|request| small.stream(request).unwrap()).collect();
        for (stream, alone) in streams.into_iter().zip(&alone) {
            let mut tokens = Vec::new();
            for event in stream {
                if let nvllm_engine::Event::Token { token, .. } = event {
                    tokens.push(token);
                }
            }
            assert_eq!(tokens, alone.tokens);
        }
        assert!(small.stats().num_preemptions > 0, "{:?}", small.stats());
    });
}
