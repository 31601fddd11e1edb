//! What an engine is doing, in one word.

/// Whether requests are taken, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The weights are on their way to the backend.
    Loading,
    /// Requests are taken.
    Serving,
    /// No requests are taken any more; those that were run to their end.
    Draining,
    /// Loading failed, or the device or a thread of the engine did: nothing will run again. The
    /// reason in words.
    Failed(String),
}
