//! Requests that may not sample every token.

use std::sync::{Arc, Mutex};

use nvllm_core::{
    CoreError, Executable, Result, SamplingParams, Step, StepOutput, Ticket, TokenId, TokenMasks,
};
use nvllm_engine::{Engine, FinishReason, LoadOptions, Request};

use crate::support::{
    Hooks, Plain, alone_and_in_company, end, eventually, in_time, options, parts, request, start,
};

/// The vocabulary of the demo model.
const VOCAB_SIZE: u32 = 8192;

fn ids(ids: impl IntoIterator<Item = u32>) -> Vec<TokenId> {
    ids.into_iter().map(TokenId).collect()
}

/// Draws at random.
fn sampled(i: u32, max_tokens: usize) -> Request {
    let sampling = SamplingParams { temperature: 1.0, seed: u64::from(i), ..SamplingParams::default() };
    Request { sampling, logprobs: Some(2), ..request(i, max_tokens) }
}

/// A step that was in flight at the end of a request may still hold something for a while.
fn nothing_is_left(engine: &Engine) {
    eventually(|| {
        let stats = engine.stats();
        stats.num_running + stats.num_waiting + stats.used_blocks == 0
    });
}

#[test]
fn only_allowed_tokens_are_sampled() {
    in_time(|| {
        let engine = start(Plain, options());
        // Of every word of a mask some, and not the same of each.
        let allowed = ids((7..VOCAB_SIZE).step_by(25));
        let generate = |allowed: &[TokenId]| {
            let allowed_tokens = Some(allowed.to_vec());
            engine.generate(Request { allowed_tokens, ..sampled(2, 40) }).unwrap().tokens
        };
        let tokens = generate(&allowed);
        assert_eq!(tokens.len(), 40);
        assert!(tokens.iter().all(|token| allowed.contains(token)), "{tokens:?}");
        assert!(allowed.iter().filter(|token| tokens.contains(token)).count() > 1, "{tokens:?}");
        assert_eq!(generate(&allowed[..1]), [TokenId(7); 40]);
        // All of them: the same as none given.
        let all =
            engine.generate(Request { allowed_tokens: Some(ids(0..VOCAB_SIZE)), ..request(2, 8) }).unwrap();
        assert_eq!(all.tokens, engine.generate(request(2, 8)).unwrap().tokens);
    });
}

#[test]
fn a_bad_word_is_never_completed() {
    in_time(|| {
        let engine = start(Plain, options());
        let generate = |bad_words: &[Vec<TokenId>]| {
            let bad_words = bad_words.to_vec();
            engine.generate(Request { bad_words, ..request(2, 12) }).unwrap().tokens
        };
        let free = generate(&[]);
        let one = generate(&[vec![free[0]]]);
        assert!(!one.contains(&free[0]), "{one:?}");
        for (at, len) in [(0, 2), (1, 2), (3, 3)] {
            let word = free[at..at + len].to_vec();
            let barred = generate(std::slice::from_ref(&word));
            let end = at + len - 1;
            assert_eq!(barred[..end], free[..end], "nothing changes before");
            assert!(!barred.windows(len).any(|tokens| tokens == word), "{word:?} in {barred:?}");
        }
        // The prompt is not part of a bad word.
        let last = *request(2, 1).prompt.last().unwrap();
        assert_eq!(generate(&[vec![last, free[0]]])[0], free[0]);
    });
}

#[test]
fn masked_requests_change_no_bit_of_others_nor_others_of_them() {
    in_time(|| {
        let masked = |i: u32| Request {
            allowed_tokens: (i != 0).then(|| ids((0..VOCAB_SIZE).filter(|t| t % 3 != i % 3))),
            bad_words: (0..VOCAB_SIZE).map(|t| ids([t, t])).collect(),
            ..sampled(i, 36)
        };
        let requests = [masked(0), sampled(1, 36), masked(2), sampled(0, 36), masked(1), sampled(2, 36)];
        let alone = alone_and_in_company(&requests);
        assert_ne!(alone[1].0, alone[4].0, "the mask changes something");
    });
}

#[test]
fn each_choice_has_a_mask_of_its_own() {
    in_time(|| {
        let word = |t: u32| ids([t, t]);
        let masked = Request { bad_words: (0..VOCAB_SIZE).map(word).collect(), ..sampled(3, 12) };
        let engine = start(Plain, LoadOptions { max_in_flight: Some(2), ..options() });
        let choices = engine.generate_choices(Request { n: Some(3), ..masked.clone() }).unwrap();
        assert_ne!(choices[0].tokens, choices[1].tokens);
        for (choice, together) in (0..).zip(&choices) {
            let mut alone = masked.clone();
            alone.sampling.choice = choice;
            assert_eq!(parts(together), parts(&engine.generate(alone).unwrap()), "choice {choice}");
        }
    });
}

#[test]
fn what_leaves_nothing_to_sample_is_refused() {
    let engine = start(Plain, options());
    let lists = |allowed: Option<&[u32]>, bad_words: &[&[u32]]| Request {
        allowed_tokens: allowed.map(|allowed| ids(allowed.iter().copied())),
        bad_words: bad_words.iter().map(|word| ids(word.iter().copied())).collect(),
        ..request(0, 4)
    };
    let stop = SamplingParams { stop_tokens: ids([5]), min_tokens: 1, ..SamplingParams::default() };
    let every_token = Request { bad_words: (0..VOCAB_SIZE).map(|t| ids([t])).collect(), ..request(0, 4) };
    for (request, words) in [
        (lists(Some(&[]), &[]), ["allowed_token_ids", "is empty"]),
        (lists(Some(&[1, 9000]), &[]), ["allowed_token_ids", "holds token 9000"]),
        (lists(Some(&[1, 2]), &[&[2], &[1]]), ["allowed_token_ids", "leaves no token"]),
        (Request { sampling: stop, ..lists(Some(&[5]), &[]) }, ["allowed_token_ids", "min_tokens"]),
        (lists(None, &[&[1], &[]]), ["bad_words", "entry 1"]),
        (lists(None, &[&[1, 9000]]), ["bad_words", "holds token 9000"]),
        (every_token, ["bad_words", "leaves no token"]),
    ] {
        let Err(error) = engine.stream(request) else { panic!("{words:?}: taken") };
        let message = error.to_string();
        assert!(message.starts_with(words[0]) && message.contains(words[1]), "{message}");
    }
    assert_eq!(engine.stats().num_waiting, 0);
}

#[test]
fn a_choice_that_no_token_is_left_for_fails_alone() {
    in_time(|| {
        let engine = start(Plain, LoadOptions { max_in_flight: Some(2), ..options() });
        let stuck =
            Request { allowed_tokens: Some(ids([5])), bad_words: vec![ids([5, 5, 5])], ..request(1, 8) };
        let other = engine.stream(request(2, 8)).unwrap();
        let failed = engine.generate_choices(stuck).unwrap().swap_remove(0);
        assert_eq!((failed.tokens, failed.finished.reason), (ids([5, 5]), FinishReason::Barred));
        let error = failed.finished.error.unwrap();
        assert!(error.contains("no token is left to sample after 2 tokens"), "{error}");
        // Stop tokens are barred before `min_tokens` only.
        let sampling = SamplingParams { stop_tokens: ids([6]), min_tokens: 2, ..SamplingParams::default() };
        let short = Request {
            sampling,
            allowed_tokens: Some(ids([5, 6])),
            bad_words: vec![ids([5, 5])],
            ..request(1, 8)
        };
        let failed = end(engine.stream(short.clone()).unwrap());
        assert_eq!((failed.reason, failed.output_tokens), (FinishReason::Barred, 1));
        let sampling = SamplingParams { min_tokens: 1, ..short.sampling.clone() };
        let stopped = end(engine.stream(Request { sampling, ..short }).unwrap());
        assert_eq!((stopped.reason, stopped.output_tokens), (FinishReason::StopToken(TokenId(6)), 2));
        assert_eq!(end(other).reason, FinishReason::Length);
        nothing_is_left(&engine);
    });
}

/// Notes the calls, and fails to take the masks of one step.
#[derive(Clone, Default)]
struct Watched {
    calls: Arc<Mutex<String>>,
    /// Which call of `supply_masks` fails, counted from 1.
    fails: Option<usize>,
}

impl Watched {
    fn note(&self, call: char) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Hooks for Watched {
    fn submit(&mut self, inner: &mut dyn Executable, step: &Step) -> Result<Ticket> {
        self.note('s');
        inner.submit(step)
    }

    fn supply_masks(&mut self, inner: &mut dyn Executable, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        self.note('m');
        let count = self.calls.lock().unwrap().matches('m').count();
        if self.fails == Some(count) {
            return Err(CoreError::Device { backend: "watched".into(), problem: "masks are lost".into() });
        }
        inner.supply_masks(ticket, masks)
    }

    fn collect(&mut self, inner: &mut dyn Executable, ticket: Ticket) -> Result<StepOutput> {
        self.note('c');
        inner.collect(ticket)
    }
}

#[test]
fn a_masked_step_runs_while_the_one_before_is_taken_in() {
    in_time(|| {
        let watched = Watched::default();
        let engine = start(watched.clone(), LoadOptions { max_in_flight: Some(2), ..options() });
        let calls = || std::mem::take(&mut *watched.calls.lock().unwrap());
        engine.generate(request(0, 4)).unwrap();
        assert_eq!(calls(), "sscscscc");
        let masked = Request { bad_words: vec![ids([1])], ..request(0, 4) };
        engine.generate(masked).unwrap();
        assert_eq!(calls(), "smscmscmscmc");
    });
}

#[test]
fn masks_that_the_device_does_not_take_end_their_step_and_no_other() {
    in_time(|| {
        let watched = Watched { fails: Some(3), ..Watched::default() };
        let engine = start(watched, LoadOptions { max_in_flight: Some(2), ..options() });
        let masked = || Request { bad_words: vec![ids([1])], ..request(0, 8) };
        let failed = end(engine.stream(masked()).unwrap());
        assert_eq!((failed.reason, failed.output_tokens), (FinishReason::Failed, 2));
        assert!(failed.error.unwrap().contains("masks are lost"));
        assert_eq!(end(engine.stream(masked()).unwrap()).reason, FinishReason::Length);
        nothing_is_left(&engine);
    });
}
