//! No call waits for a step, and a request can be ended wherever it is.

use nvllm_engine::{Engine, Event, FinishReason, RequestStream};

use crate::support::{Plain, end, eventually, in_time, options, request, start, start_stepwise};

/// Takes the end, which is to be an abort after `output_tokens`; whether it had a slot.
fn aborted(stream: RequestStream, output_tokens: usize) -> bool {
    let finished = end(stream);
    assert_eq!((finished.reason, finished.error), (FinishReason::Aborted, None));
    assert_eq!(finished.output_tokens, output_tokens);
    finished.queue_time.is_some()
}

fn is_idle(engine: &Engine) -> bool {
    let stats = engine.stats();
    stats.num_running + stats.num_waiting + stats.num_in_flight + stats.used_blocks == 0
}

#[test]
fn no_call_waits_for_the_step_that_runs() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let first = engine.stream(request(1, 2)).unwrap();
        steps.wait_for_step();
        // The step ends below.
        let second = engine.stream(request(0, 2)).unwrap();
        assert!(engine.stream(request(20, 2)).is_err());
        assert_eq!((engine.stats().num_running, engine.stats().num_waiting), (1, 1));
        assert!(second.id() > first.id());
        drop(steps);
        for stream in [first, second] {
            assert_eq!(end(stream).reason, FinishReason::Length);
        }
    });
}

#[test]
fn an_abort_ends_a_request_in_the_queue() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let first = engine.stream(request(1, 2)).unwrap();
        steps.wait_for_step();
        let [second, third] = [0, 2].map(|i| engine.stream(request(i, 2)).unwrap());
        engine.abort(second.id());
        assert!(!aborted(second, 0), "it never had a slot");
        assert_eq!(engine.stats().finished.aborted, 1);
        drop(steps);
        for stream in [first, third] {
            assert_eq!(end(stream).reason, FinishReason::Length);
        }
        eventually(|| is_idle(&engine));
    });
}

#[test]
fn an_abort_ends_a_request_in_its_prompt_before_the_step_ends() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        // 48 tokens: three steps.
        let long = engine.stream(request(9, 2)).unwrap();
        steps.wait_for_step();
        steps.end_step();
        steps.wait_for_step();
        engine.abort(long.id());
        let next = engine.stream(request(0, 3)).unwrap();
        assert!(aborted(long, 0), "it had a slot");
        drop(steps);
        assert_eq!(end(next).output_tokens, 3);
        eventually(|| is_idle(&engine));
        // The last third was never computed.
        assert_eq!(engine.stats().num_prompt_tokens, 32 + 3);
    });
}

#[test]
fn an_abort_ends_a_request_that_generates() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let mut stream = engine.stream(request(1, 40)).unwrap();
        steps.wait_for_step();
        steps.end_step();
        assert!(matches!(stream.next(), Some(Event::Token { .. })));
        steps.wait_for_step();
        stream.abort();
        assert!(aborted(stream, 1));
        drop(steps);
        eventually(|| is_idle(&engine));
        // What the last step made for it is counted and told to nobody.
        assert!(engine.stats().num_output_tokens <= 2, "{:?}", engine.stats());
    });
}

#[test]
fn an_abort_of_what_has_ended_or_never_was_is_no_error() {
    in_time(|| {
        let [engine, other] = [(); 2].map(|()| start(Plain, options()));
        let mut stream = engine.stream(request(1, 2)).unwrap();
        assert_eq!(end(stream.by_ref()).reason, FinishReason::Length);
        engine.abort(stream.id());
        other.abort(stream.id());
        assert!(stream.next().is_none(), "one end");
        for engine in [engine, other] {
            assert_eq!(end(engine.stream(request(0, 2)).unwrap()).reason, FinishReason::Length);
            assert_eq!(engine.stats().finished.aborted, 0);
        }
    });
}

#[test]
fn dropping_a_stream_aborts_its_request() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let running = engine.stream(request(1, 40)).unwrap();
        steps.wait_for_step();
        let waiting = engine.stream(request(1, 40)).unwrap();
        drop((running, waiting));
        drop(steps);
        eventually(|| is_idle(&engine));
        assert_eq!((engine.stats().finished.aborted, engine.stats().finished.total()), (2, 2));
    });
}
