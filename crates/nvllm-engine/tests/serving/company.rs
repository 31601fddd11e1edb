//! Many clients at once, each with a way of its own to leave.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;
use nvllm_core::TokenId;
use nvllm_engine::{Engine, EngineError, Event, FinishReason, LoadOptions, Request};

use crate::support::{PATIENCE, Plain, end, eventually, in_time, options, request, start};

const CLIENTS: u32 = 4;
const ROUNDS: u32 = 6;
/// Requests of a client's round.
const REQUESTS: u32 = 4;

/// Submits until there is room in the queue.
fn insist<T>(refused: &AtomicU64, submit: impl Fn() -> nvllm_engine::Result<T>) -> T {
    loop {
        match submit() {
            Ok(taken) => return taken,
            Err(EngineError::QueueFull { .. }) => {
                refused.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => panic!("{e}"),
        }
    }
}

/// A client that leaves in all ways, from one request to the next.
fn client(engine: &Engine, number: u32, refused: &AtomicU64) {
    for round in 0..ROUNDS {
        // Every other one is masked.
        let bad_words = (0..number % 2).map(|_| vec![TokenId(1), TokenId(2)]).collect();
        let request = Request { bad_words, ..request(round % 4, 6) };
        let streams = [(); 2].map(|()| insist(refused, || engine.stream(request.clone())));
        for (which, mut stream) in (0..).zip(streams) {
            match (number + round + which) % 4 {
                0 => drop(stream),
                1 => {
                    engine.abort(stream.id());
                    let reason = end(stream).reason;
                    assert!(matches!(reason, FinishReason::Aborted | FinishReason::Length), "{reason:?}");
                }
                // Leaves after its first event.
                2 => assert!(stream.next().is_some()),
                _ => assert_eq!(end(stream).output_tokens, 6),
            }
        }
        let embedding = insist(refused, || {
            engine.embed(Request { prompt: request.prompt.clone(), ..Request::default() })
        });
        assert_eq!(embedding.finished.reason, FinishReason::Length);
        // Reads too little.
        let events = insist(refused, || {
            let (sink, events) = bounded(1);
            engine.submit(request.clone(), Box::new(sink)).map(|_| events)
        });
        assert!(matches!(events.recv(), Ok(Event::Token { .. })));
    }
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    in_time(|| {
        let options =
            LoadOptions { max_queued_requests: 4, max_in_flight: Some(2), embeddings: true, ..options() };
        let engine = start(Plain, options);
        let refused = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (engine, refused) = (&engine, &refused);
                scope.spawn(move || client(engine, number, refused));
            }
        });
        assert!(engine.wait_until_idle(PATIENCE));
        let finished = engine.stats().finished;
        assert_eq!((finished.total(), finished.failed), (u64::from(CLIENTS * ROUNDS * REQUESTS), 0));
        // A quarter of the streams was read to the end.
        assert!(finished.length >= u64::from(CLIENTS * ROUNDS * 2 / 4), "{finished:?}");
        assert!(refused.into_inner() > 0, "the queue was never full");
        eventually(|| {
            let stats = engine.stats();
            let queued = stats.num_waiting + stats.num_waiting_tokens;
            queued + stats.num_running + stats.num_in_flight + stats.used_blocks == 0
        });
    });
}
