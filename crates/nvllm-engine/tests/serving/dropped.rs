//! An engine that is dropped with requests in it.

use nvllm_engine::FinishReason;

use crate::support::{PATIENCE, end, in_time, options, request, spawn_loading, start_stepwise};

#[test]
fn dropping_the_engine_ends_running_and_queued_requests() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let streams = [0, 1, 2].map(|i| engine.stream(request(i, 20)).unwrap());
        steps.wait_for_step();
        let dropping = std::thread::spawn(move || drop(engine));
        // They hear it while the step still runs.
        for stream in streams {
            assert_eq!(end(stream).reason, FinishReason::Aborted);
        }
        assert!(!dropping.is_finished(), "the device thread is in a step");
        drop(steps);
        dropping.join().unwrap();
    });
}

#[test]
fn a_stream_outlives_its_engine() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let mut stream = engine.stream(request(0, 1)).unwrap();
        drop(steps);
        assert!(engine.wait_until_idle(PATIENCE));
        drop(engine);
        assert_eq!(end(stream.by_ref()).reason, FinishReason::Length);
        assert!(stream.next().is_none());
        stream.abort();
    });
}

#[test]
fn an_engine_dropped_while_it_loads_ends_with_loading() {
    in_time(|| {
        let (engine, go) = spawn_loading();
        let dropping = std::thread::spawn(move || drop(engine));
        drop(go);
        dropping.join().unwrap();
    });
}
