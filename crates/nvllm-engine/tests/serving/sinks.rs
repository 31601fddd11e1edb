//! Sinks: one that is gone, slow or broken costs its own request and no other.

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nvllm_core::{DType, Executable, HostTensor, Result, StepOutput, Tensor, Ticket};
use nvllm_engine::{Event, EventSink, FinishReason, Gone, Request};

use crate::support::{Hooks, PATIENCE, Plain, end, eventually, in_time, options, request, start};

/// Sends on, until it has sent `left` events; then it does what `then` says.
struct Limited {
    to: Sender<Event>,
    left: usize,
    then: fn(Event) -> std::result::Result<(), Gone>,
}

impl EventSink for Limited {
    fn send(&mut self, event: Event) -> std::result::Result<(), Gone> {
        let is_end = matches!(event, Event::Finished(_));
        if self.left == 0 && !is_end {
            return (self.then)(event);
        }
        self.left = self.left.saturating_sub(1);
        self.to.send(event).map_err(|_| Gone)
    }
}

fn limited(left: usize, then: fn(Event) -> std::result::Result<(), Gone>) -> (Limited, Receiver<Event>) {
    let (to, events) = unbounded();
    (Limited { to, left, then }, events)
}

#[test]
fn a_sink_that_says_gone_ends_its_request_alone() {
    in_time(|| {
        let engine = start(Plain, options());
        let (sink, events) = limited(2, |_| Err(Gone));
        engine.submit(request(0, 50), Box::new(sink)).unwrap();
        let other = engine.stream(request(1, 20)).unwrap();
        assert_eq!(end(other).reason, FinishReason::Length);
        let all: Vec<Event> = events.iter().collect();
        assert!(matches!(all[..], [Event::Token { .. }, Event::Token { .. }, Event::Finished(_)]), "{all:?}");
        eventually(|| engine.stats().num_running == 0);
        let finished = engine.stats().finished;
        assert_eq!((finished.aborted, finished.length, finished.total()), (1, 1, 2));
        assert!(engine.stats().num_output_tokens < 70, "it ran on: {:?}", engine.stats());
    });
}

#[test]
fn a_bounded_channel_that_nobody_reads_ends_its_request_alone() {
    in_time(|| {
        let engine = start(Plain, options());
        let (crossbeam, first) = bounded(2);
        let (tokio, mut second) = tokio::sync::mpsc::channel(2);
        let sinks: [Box<dyn EventSink>; 2] = [Box::new(crossbeam), Box::new(tokio)];
        for sink in sinks {
            engine.submit(request(0, 30), sink).unwrap();
        }
        assert_eq!(end(engine.stream(request(1, 20)).unwrap()).reason, FinishReason::Length);
        eventually(|| engine.stats().finished.aborted == 2);
        // What fitted is there, and then the channel is closed.
        assert!(first.iter().count() == 2);
        assert!(second.blocking_recv().is_some() && second.blocking_recv().is_some());
        assert!(second.blocking_recv().is_none());
    });
}

#[test]
fn a_sink_that_panics_ends_its_request_alone_and_says_why() {
    in_time(|| {
        let engine = start(Plain, options());
        let (sink, events) = limited(1, |_| panic!("no paper"));
        engine.submit(request(0, 30), Box::new(sink)).unwrap();
        assert_eq!(end(engine.stream(request(1, 20)).unwrap()).reason, FinishReason::Length);
        let finished = end(events.iter());
        assert_eq!(finished.reason, FinishReason::Failed);
        assert!(finished.error.unwrap().contains("no paper"));
        eventually(|| engine.stats().num_running == 0);
        assert_eq!(engine.stats().finished.failed, 1);
    });
}

/// Waits for a permit before each event.
struct Blocking(Receiver<()>, Sender<Event>);

impl EventSink for Blocking {
    fn send(&mut self, event: Event) -> std::result::Result<(), Gone> {
        let _ = self.0.recv();
        self.1.send(event).map_err(|_| Gone)
    }
}

/// The text thread waits with it, which a sink must not do; the device thread does not.
#[test]
fn the_device_thread_does_not_wait_for_text() {
    in_time(|| {
        let engine = start(Plain, options());
        let (permits, permitted) = unbounded();
        let (to, events) = unbounded();
        engine.submit(request(0, 30), Box::new(Blocking(permitted, to))).unwrap();
        eventually(|| engine.stats().num_output_tokens == 30 && engine.stats().num_running == 0);
        assert!(events.is_empty());
        drop(permits);
        let finished = end(events.iter());
        assert_eq!((finished.reason, finished.output_tokens), (FinishReason::Length, 30));
        assert!(engine.wait_until_idle(PATIENCE));
    });
}

/// Logits whose copy panics.
#[derive(Clone)]
struct PanickingLogits;

impl Tensor for PanickingLogits {
    fn shape(&self) -> &[usize] {
        &[1]
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn to_host(&self) -> Result<HostTensor> {
        panic!("the copy engine is on strike")
    }
}

impl Hooks for PanickingLogits {
    fn collect(&mut self, inner: &mut dyn Executable, ticket: Ticket) -> Result<StepOutput> {
        let mut output = inner.collect(ticket)?;
        output.rows.iter_mut().filter_map(|row| row.values.as_mut()).for_each(|row| *row = Box::new(Self));
        Ok(output)
    }
}

#[test]
fn a_panic_on_the_text_thread_reaches_its_client() {
    in_time(|| {
        let engine = start(PanickingLogits, options());
        let wants = |logits| engine.stream(Request { logits, ..request(1, 4) }).unwrap();
        let [bad, good] = [true, false].map(wants).map(end);
        assert_eq!((bad.reason, good.reason), (FinishReason::Failed, FinishReason::Length));
        assert!(bad.error.unwrap().contains("the copy engine is on strike"));
        assert_eq!(end(wants(false)).reason, FinishReason::Length);
    });
}
