//! The events of one request for async tasks.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::stream::Subscription;
use crate::{Event, RequestId};

/// The events of one request, in order, the last an [`Event::Finished`], one of which comes for
/// each choice. Dropping it aborts the request.
///
/// It needs no runtime of its own: any executor can poll it.
pub struct AsyncRequestStream {
    events: UnboundedReceiver<Event>,
    subscription: Subscription,
}

impl AsyncRequestStream {
    pub(crate) fn new(events: UnboundedReceiver<Event>, subscription: Subscription) -> Self {
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

    /// The next event; `None` after the end. Nothing is lost if the future is dropped before it is
    /// ready.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await;
        self.subscription.pass(event)
    }
}

impl Stream for AsyncRequestStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = std::task::ready!(self.events.poll_recv(context));
        Poll::Ready(self.subscription.pass(event))
    }
}
