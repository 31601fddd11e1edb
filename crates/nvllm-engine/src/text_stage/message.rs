//! What the text stage is told by the threads beside it.

use super::client::Client;
use super::output::Output;
use crate::RequestId;

/// What the text stage is told.
pub(crate) enum Message {
    /// A client, before the device thread has its request.
    Open(RequestId, Box<Client>),
    /// What the device thread has to say, in order.
    Outputs(Vec<(RequestId, usize, Output)>),
    /// The client wants no more.
    Abort(RequestId),
    /// The engine has failed, for the reason that is noted.
    Failed,
    /// The engine is being dropped.
    Stop,
    /// A fault of this thread, outside of any client's part.
    #[cfg(test)]
    Panic,
}
