//! What the device thread is told by the threads beside it.

use crossbeam_channel::Sender;
use nvllm_sched::{FinishReason, NewSequence};

use crate::RequestId;
use crate::backlog::Queued;
use crate::token_mask::TokenMask;

/// What the device thread is asked, between steps.
pub(crate) enum Command {
    /// Queue a request that was checked, with a mask for each choice or none.
    Submit { id: RequestId, new: Box<NewSequence>, n: usize, masks: Vec<Box<dyn TokenMask>>, queued: Queued },
    /// End a choice, or all choices, whose client has the end already; it may have ended here too.
    Finish { id: RequestId, choice: Option<usize>, reason: FinishReason },
    /// Make one more tenant known, behind those that are.
    AddTenant { weight: u32 },
    /// Forget what the prefix cache has.
    ResetPrefixCache,
    /// Measure the backend's read bandwidth, in bytes a second.
    Bandwidth { reply: Sender<nvllm_core::Result<Option<f64>>> },
    /// End.
    Stop,
}
