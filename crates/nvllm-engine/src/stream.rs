//! The events of one request as a blocking iterator, and what both kinds of streams have in common.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::shared::Shared;
use crate::text_stage::Message;
use crate::{Event, Finished, RequestId};

/// The events of one request, in order, the last an [`Event::Finished`], one of which comes for
/// each choice. Each call waits for the next event. Dropping the stream aborts the request.
pub struct RequestStream {
    events: Receiver<Event>,
    subscription: Subscription,
}

impl RequestStream {
    pub(crate) fn new(events: Receiver<Event>, subscription: Subscription) -> Self {
        Self { events, subscription }
    }

    /// The request.
    pub const fn id(&self) -> RequestId {
        self.subscription.id
    }

    /// Ends the request, as [`Engine::abort`](crate::Engine::abort) does. Events that had come by
    /// then can still be read, and the end.
    pub fn abort(&self) {
        self.subscription.abort();
    }

    /// The next event, waiting `timeout` at most; `None` if none came in that time or there are no
    /// more.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Event> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => self.subscription.pass(Some(event)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => self.subscription.pass(None),
        }
    }
}

impl Iterator for RequestStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.subscription.pass(self.events.recv().ok())
    }
}

/// A stream's part in its request: it sees to the end, and aborts if it is dropped before.
pub(crate) struct Subscription {
    pub(crate) id: RequestId,
    stage: Sender<Message>,
    shared: Arc<Shared>,
    /// Choices that have not ended.
    open: Vec<usize>,
}

impl Subscription {
    pub(crate) fn new(
        id: RequestId,
        num_choices: usize,
        stage: Sender<Message>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { id, stage, shared, open: (0..num_choices).rev().collect() }
    }

    pub(crate) fn abort(&self) {
        if !self.open.is_empty() {
            let _ = self.stage.send(Message::Abort(self.id));
        }
    }

    /// What the reader gets for what the channel gave. A channel that closes before the end is an
    /// end too, with the reason as far as it is known.
    pub(crate) fn pass(&mut self, event: Option<Event>) -> Option<Event> {
        if let Some(Event::Finished(finished)) = &event {
            self.open.retain(|choice| *choice != finished.choice);
        }
        event.or_else(|| {
            let choice = self.open.pop()?;
            let reason = self.shared.failure.reason().unwrap_or("its events broke off");
            Some(Event::Finished(Finished { choice, ..Finished::failed(reason) }))
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.abort();
    }
}
