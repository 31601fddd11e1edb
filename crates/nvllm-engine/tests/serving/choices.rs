//! Several answers to one prompt.

use nvllm_core::SamplingParams;
use nvllm_engine::{Event, FinishReason, LoadOptions, Request};

use crate::support::{Plain, in_time, options, request, start, start_stepwise};

/// `n` choices, drawn at random.
fn sampled(n: usize) -> Request {
    let sampling = SamplingParams { temperature: 1.0, seed: 7, ..SamplingParams::default() };
    Request { sampling, n: Some(n), logprobs: Some(2), ..request(3, 5) }
}

#[test]
fn each_choice_is_the_answer_that_it_would_be_alone() {
    in_time(|| {
        let engine = start(Plain, options());
        let choices = engine.generate_choices(sampled(3)).unwrap();
        assert_eq!(choices.len(), 3);
        assert!(choices[0].tokens != choices[1].tokens && choices[1].tokens != choices[2].tokens);
        let stats = engine.stats();
        // 18 tokens are computed once, and the last of them for each of the others.
        assert_eq!((stats.num_prompt_tokens, stats.num_cached_tokens), (18 + 2, 2 * 17));
        for (choice, together) in (0..).zip(choices) {
            let mut alone = Request { n: None, cache_salt: Some("alone".into()), ..sampled(1) };
            alone.sampling.choice = choice;
            let alone = engine.generate(alone).unwrap();
            assert_eq!((together.tokens, together.text), (alone.tokens, alone.text), "choice {choice}");
            assert_eq!(together.logprobs, alone.logprobs, "choice {choice}");
            assert_eq!((together.finished.choice, alone.finished.choice), (choice as usize, 0));
        }
    });
}

#[test]
fn rows_of_the_prompt_come_once_and_an_end_comes_for_each_choice() {
    in_time(|| {
        let engine = start(Plain, options());
        let stream = engine.stream(Request { prompt_logprobs: Some(0), ..sampled(3) }).unwrap();
        let (mut rows, mut tokens, mut ends) = (0, [0; 3], [0; 3]);
        for event in stream {
            match event {
                Event::PromptRow { .. } => rows += 1,
                Event::Embedding { .. } => panic!("no embedding was asked for"),
                Event::Token { choice, .. } => tokens[choice] += 1,
                Event::Finished(finished) => {
                    assert_eq!(finished.output_tokens, tokens[finished.choice]);
                    ends[finished.choice] += 1;
                }
            }
        }
        assert_eq!((rows, tokens, ends), (17, [5; 3], [1; 3]));
        assert_eq!(engine.stats().finished.length, 3);
    });
}

#[test]
fn a_stop_string_ends_its_own_choice() {
    in_time(|| {
        let engine = start(Plain, options());
        let texts: Vec<_> =
            engine.generate_choices(sampled(3)).unwrap().into_iter().map(|c| c.text).collect();
        // What only the second of them says.
        let words = texts[1].split_whitespace().filter(|word| word.len() > 1);
        let stop = words.map(String::from).find(|word| !texts[0].contains(word) && !texts[2].contains(word));
        // One that no text has comes first.
        let stop_strings = ["\u{1}".to_owned()].into_iter().chain(stop.clone()).collect();
        let choices = engine.generate_choices(Request { stop: stop_strings, ..sampled(3) });
        let choices = choices.unwrap();
        let reasons: Vec<_> = choices.iter().map(|choice| choice.finished.reason).collect();
        assert_eq!(reasons, [FinishReason::Length, FinishReason::StopString, FinishReason::Length]);
        let found: Vec<_> = choices.iter().map(|choice| choice.finished.stop_string.clone()).collect();
        assert!(stop.is_some());
        assert_eq!(found, [None, stop, None]);
        assert_eq!([&choices[0].text, &choices[2].text], [&texts[0], &texts[2]]);
    });
}

#[test]
fn an_abort_ends_all_choices() {
    in_time(|| {
        // One slot, so that there would be no room for two.
        let (engine, steps) = start_stepwise(&LoadOptions::default());
        assert!(engine.stream(sampled(2)).is_err());
        drop((engine, steps));
        let engine = start(Plain, options());
        let stream = engine.stream(Request { max_tokens: None, ..sampled(3) }).unwrap();
        stream.abort();
        let ends: Vec<_> = stream.filter(|event| matches!(event, Event::Finished(_))).collect();
        assert_eq!(ends.len(), 3);
        assert!(engine.wait_until_idle(crate::support::PATIENCE));
        assert_eq!(engine.stats().finished.aborted, 3);
        // Nothing is left of them once the device thread has taken notice.
        engine.generate(request(0, 1)).unwrap();
        let stats = engine.stats();
        assert_eq!((stats.num_running, stats.num_waiting, stats.used_blocks), (0, 0, 0));
    });
}

#[test]
fn as_many_choices_as_slots_are_taken() {
    let engine = start(Plain, options());
    for (n, message) in [(0, "n is 0; give 1 to 3"), (4, "n is 4; give 1 to 3")] {
        let error = engine.stream(sampled(n)).err().unwrap().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    assert_eq!(engine.stats().num_waiting, 0);
}
