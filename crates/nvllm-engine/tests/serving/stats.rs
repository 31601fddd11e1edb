//! What is counted.

use std::time::Duration;

use nvllm_core::SamplingParams;
use nvllm_engine::{FinishReason, LoadOptions, Request};

use crate::support::{Plain, end, eventually, in_time, options, request, start, start_stepwise};

#[test]
fn a_snapshot_counts_what_was_done() {
    in_time(|| {
        let engine = start(Plain, options());
        let before = engine.stats();
        assert!(before.total_blocks > 0 && before.num_steps == 0 && before.finished.total() == 0);
        let streams: Vec<_> = (0..5).map(|i| engine.stream(request(i, 4)).unwrap()).collect();
        for stream in streams {
            assert_eq!(end(stream).reason, FinishReason::Length);
        }
        // Whoever was told the last end finds it counted.
        let stats = engine.stats();
        assert_eq!(stats.num_prompt_tokens, (0..5).map(|i| 3 + 5 * i).sum::<u64>());
        assert_eq!((stats.num_output_tokens, stats.finished.length), (20, 5));
        let left = (stats.num_waiting, stats.num_waiting_tokens, stats.num_running, stats.used_blocks);
        assert_eq!((left, stats.total_blocks), ((0, 0, 0, 0), before.total_blocks));
        // 65 prompt tokens in steps of 16, and 3 more for the last one's output.
        assert!(stats.num_steps >= 8, "{stats:?}");
    });
}

#[test]
fn ends_are_counted_by_their_reason() {
    in_time(|| {
        let engine = start(Plain, options());
        let whole = engine.generate(request(2, 12)).unwrap();
        let first = whole.tokens[0];
        let stop_tokens = SamplingParams { stop_tokens: vec![first], ..SamplingParams::default() };
        let stopped = engine.generate(Request { sampling: stop_tokens, ..request(2, 12) }).unwrap();
        assert_eq!((stopped.finished.reason, stopped.tokens), (FinishReason::StopToken(first), vec![first]));
        assert_eq!(stopped.text, "");
        let word: String = whole.text.chars().take(2).collect();
        let found = engine.generate(Request { stop: vec![word], ..request(2, 12) }).unwrap();
        assert_eq!((found.finished.reason, found.text.as_str()), (FinishReason::StopString, ""));
        drop(engine.stream(request(2, 50)).unwrap());
        eventually(|| engine.stats().finished.total() == 4);
        let finished = engine.stats().finished;
        assert_eq!((finished.length, finished.stop_token), (1, 1));
        assert_eq!((finished.stop_string, finished.aborted, finished.failed), (1, 1, 0));
        eventually(|| engine.stats().num_running + engine.stats().used_blocks == 0);
    });
}

#[test]
fn an_end_says_how_long_its_request_waited() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&LoadOptions { max_num_seqs: Some(1), ..options() });
        let first = engine.stream(request(0, 1)).unwrap();
        steps.wait_for_step();
        let second = engine.stream(request(1, 1)).unwrap();
        let wait = Duration::from_millis(30);
        std::thread::sleep(wait);
        drop(steps);
        let [first, second] = [first, second].map(end);
        for finished in [&first, &second] {
            assert!(finished.queue_time <= finished.time_to_first_token, "{finished:?}");
            assert_eq!(finished.cached_tokens, 0);
        }
        // The first got its slot before it was held back; the second, after the first had ended.
        assert!(first.time_to_first_token >= Some(wait) && second.queue_time >= Some(wait), "{second:?}");
        assert!(first.queue_time.unwrap() < second.queue_time.unwrap());
    });
}
