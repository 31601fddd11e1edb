//! The bound of the queue.

use nvllm_engine::{EngineError, FinishReason, LoadOptions};

use crate::support::{end, in_time, options, request, start_stepwise};

#[test]
fn a_full_queue_refuses_and_nobody_else_notices() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&LoadOptions { max_queued_requests: 2, ..options() });
        let mut taken = vec![engine.stream(request(1, 2)).unwrap()];
        steps.wait_for_step();
        taken.extend([0, 2].map(|i| engine.stream(request(i, 2)).unwrap()));
        match engine.stream(request(0, 2)).err() {
            Some(EngineError::QueueFull { requests: 2, max_requests: 2, tokens: 16, .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!((engine.stats().num_waiting, engine.stats().num_waiting_tokens), (2, 16));
        drop(steps);
        for stream in taken {
            assert_eq!(end(stream).reason, FinishReason::Length);
        }
        assert_eq!(engine.stats().num_waiting, 0);
        assert_eq!(end(engine.stream(request(0, 2)).unwrap()).reason, FinishReason::Length);
        assert_eq!(engine.stats().finished.total(), 4);
    });
}

#[test]
fn an_aborted_request_leaves_its_place_in_the_queue() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&LoadOptions { max_queued_prompt_tokens: 10, ..options() });
        let running = engine.stream(request(1, 2)).unwrap();
        steps.wait_for_step();
        // Longer than the bound, and the only one that waits.
        let long = engine.stream(request(3, 2)).unwrap();
        let refused = engine.stream(request(0, 2)).err();
        let Some(EngineError::QueueFull { tokens: 18, max_tokens: 10, .. }) = refused else {
            panic!("{refused:?}")
        };
        engine.abort(long.id());
        assert_eq!(end(long).reason, FinishReason::Aborted);
        steps.end_step();
        // After the step the device thread takes notice, before the next one.
        steps.wait_for_step();
        let next = engine.stream(request(0, 2)).unwrap();
        drop(steps);
        for stream in [running, next] {
            assert_eq!(end(stream).reason, FinishReason::Length);
        }
    });
}
