//! The streams on top of sinks, blocking and async.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use nvllm_core::TokenId;
use nvllm_engine::{AsyncRequestStream, Engine, Event, FinishReason, Finished, Request, RequestStream};

use crate::support::{Plain, eventually, in_time, options, request, start, start_stepwise};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// Tokens and end.
fn parts(events: impl IntoIterator<Item = Event>) -> (Vec<TokenId>, Option<Finished>) {
    let (mut tokens, mut end) = (Vec::new(), None);
    for event in events {
        assert!(end.is_none(), "after the end: {event:?}");
        match event {
            Event::Token { token, .. } => tokens.push(token),
            Event::Finished(finished) => end = Some(finished),
            Event::PromptRow { .. } | Event::Embedding { .. } => panic!("no prompt rows were asked for"),
        }
    }
    (tokens, end)
}

#[test]
fn handles_go_to_other_threads_and_tasks() {
    fn is_shared<T: Send + Sync>() {}
    fn is_sent<T: Send>(value: T) -> T {
        value
    }
    is_shared::<Engine>();
    is_shared::<RequestStream>();
    is_shared::<AsyncRequestStream>();
    let engine = start(Plain, options());
    runtime().block_on(is_sent(engine.generate_async(request(0, 1)))).unwrap();
}

#[test]
fn all_ways_to_run_a_request_give_the_same() {
    in_time(|| {
        let engine = start(Plain, options());
        let generated = engine.generate(request(1, 6)).unwrap();
        assert_eq!(generated.tokens.len(), 6);
        let (tokens, end) = parts(engine.stream(request(1, 6)).unwrap());
        assert_eq!((&tokens, end.unwrap().reason), (&generated.tokens, FinishReason::Length));
        let (generated_async, events) = runtime().block_on(async {
            let generated = engine.generate_async(request(1, 6)).await.unwrap();
            let mut stream = engine.stream_async(request(1, 6)).unwrap();
            let mut events = Vec::new();
            while let Some(event) = stream.next().await {
                events.push(event);
            }
            assert!(stream.next().await.is_none());
            (generated, events)
        });
        assert_eq!((generated_async.tokens, generated_async.text), (generated.tokens, generated.text));
        assert_eq!(parts(events).0, tokens);
    });
}

#[test]
fn generate_gathers_scores_and_refuses_as_submit_does() {
    in_time(|| {
        let engine = start(Plain, options());
        let wanted = Request { logprobs: Some(2), prompt_logprobs: Some(0), ..request(1, 3) };
        let generated = engine.generate(wanted).unwrap();
        assert_eq!((generated.logprobs.len(), generated.prompt_logprobs.len()), (3, 7));
        assert!(generated.logprobs.iter().all(|scores| scores.top.len() == 2));
        assert_eq!(generated.finished.prompt_tokens, 8);
        let empty = engine.generate(Request::default()).unwrap_err().to_string();
        let async_empty = runtime().block_on(engine.generate_async(Request::default())).unwrap_err();
        assert_eq!(empty, async_empty.to_string());
    });
}

#[test]
fn a_wait_with_a_timeout_ends() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let mut stream = engine.stream(request(0, 1)).unwrap();
        steps.wait_for_step();
        assert!(stream.next_timeout(Duration::from_millis(1)).is_none());
        drop(steps);
        let mut events = Vec::new();
        eventually(|| {
            events.extend(stream.next_timeout(Duration::from_millis(1)));
            events.len() == 2
        });
        assert!(parts(events).1.is_some());
        assert!(stream.next_timeout(Duration::MAX).is_none(), "after the end there is nothing to wait for");
    });
}

#[test]
fn async_streams_wake_their_task_and_abort_when_dropped() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let mut stream = engine.stream_async(request(0, 40)).unwrap();
        let mut idle = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut stream).poll_next(&mut idle).is_pending());
        steps.wait_for_step();
        let step = std::thread::spawn(move || {
            steps.end_step();
            steps
        });
        // No event is there yet or there is: the runtime sleeps until it is woken.
        assert!(matches!(runtime().block_on(stream.next()), Some(Event::Token { .. })));
        drop(stream);
        drop(step.join().unwrap());
        eventually(|| engine.stats().num_running + engine.stats().used_blocks == 0);
        assert_eq!(engine.stats().finished.aborted, 1);
    });
}

#[test]
fn dropping_the_future_of_generate_aborts_its_request() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        {
            let mut future = pin!(engine.generate_async(request(0, 40)));
            let mut context = Context::from_waker(Waker::noop());
            assert!(matches!(future.as_mut().poll(&mut context), Poll::Pending));
            steps.wait_for_step();
        }
        drop(steps);
        eventually(|| engine.stats().finished.aborted == 1 && engine.stats().num_running == 0);
    });
}
