//! Where the events of a request go.

use crate::Event;

/// Receives the events of one request, on the engine's text thread.
///
/// # A sink must not block
/// One thread serves the sinks of all requests: a sink that waits makes all others wait. A bounded
/// sink whose reader is too slow has two honest ways: to drop what it does not need, or to say
/// [`Gone`]. Those of this crate for bounded channels use `try_send` and say `Gone` when the
/// channel is full, so that a reader that stops reading costs its own request and nobody else's.
/// Size the channel for the tokens that the reader may fall behind.
///
/// A sink that panics ends its own request; the other requests go on.
///
/// ```
/// use nvllm_engine::{Event, EventSink, Gone};
///
/// /// Tokens for a reader that may fall 32 of them behind.
/// struct ToReader(std::sync::mpsc::SyncSender<Event>);
///
/// impl EventSink for ToReader {
///     fn send(&mut self, event: Event) -> Result<(), Gone> {
///         self.0.try_send(event).map_err(|_| Gone)
///     }
/// }
///
/// let (sender, receiver) = std::sync::mpsc::sync_channel(32);
/// let sink: Box<dyn EventSink> = Box::new(ToReader(sender));
/// # drop((sink, receiver));
/// ```
pub trait EventSink: Send {
    /// Takes the next event; after [`Event::Finished`] the sink is dropped.
    ///
    /// Errors if nobody reads the events any more: the request ends then. [`Event::Finished`] still
    /// comes, and what is said to it is ignored.
    fn send(&mut self, event: Event) -> Result<(), Gone>;
}

/// The reader of a request's events is gone, or too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// [`Gone`] if the receiver was dropped or, for a bounded channel, if it is full.
impl EventSink for crossbeam_channel::Sender<Event> {
    fn send(&mut self, event: Event) -> Result<(), Gone> {
        self.try_send(event).map_err(|_| Gone)
    }
}

/// [`Gone`] if the receiver was dropped or closed.
impl EventSink for tokio::sync::mpsc::UnboundedSender<Event> {
    fn send(&mut self, event: Event) -> Result<(), Gone> {
        Self::send(self, event).map_err(|_| Gone)
    }
}

/// [`Gone`] if the receiver was dropped or closed, or if the channel is full.
impl EventSink for tokio::sync::mpsc::Sender<Event> {
    fn send(&mut self, event: Event) -> Result<(), Gone> {
        self.try_send(event).map_err(|_| Gone)
    }
}
