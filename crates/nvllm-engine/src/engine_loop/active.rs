//! Which sequence is whose request.

use std::collections::HashMap;

use nvllm_core::SeqId;

use crate::RequestId;

/// Requests that the scheduler has and that have not ended.
#[derive(Default)]
pub(super) struct Active {
    by_seq: HashMap<SeqId, Entry>,
    by_request: HashMap<RequestId, SeqId>,
}

struct Entry {
    id: RequestId,
    /// Tokens that it counts for in the queue; `None` once it has a slot.
    queued: Option<usize>,
}

impl Active {
    /// A sequence that waits for a slot.
    pub(super) fn insert(&mut self, seq: SeqId, id: RequestId, prompt_len: usize) {
        self.by_seq.insert(seq, Entry { id, queued: Some(prompt_len) });
        self.by_request.insert(id, seq);
    }

    /// The sequence has a slot: its request, and the tokens of its prompt. `None` if it had one
    /// before.
    pub(super) fn admit(&mut self, seq: SeqId) -> Option<(RequestId, usize)> {
        let entry = self.by_seq.get_mut(&seq)?;
        Some((entry.id, entry.queued.take()?))
    }

    /// The sequence has ended. The tokens of its prompt if it still waited.
    pub(super) fn remove(&mut self, seq: SeqId) -> Option<usize> {
        let entry = self.by_seq.remove(&seq)?;
        self.by_request.remove(&entry.id);
        entry.queued
    }

    pub(super) fn id(&self, seq: SeqId) -> Option<RequestId> {
        self.by_seq.get(&seq).map(|entry| entry.id)
    }

    pub(super) fn seq(&self, id: RequestId) -> Option<SeqId> {
        self.by_request.get(&id).copied()
    }

    /// All of them.
    pub(super) fn seqs(&self) -> Vec<SeqId> {
        self.by_seq.keys().copied().collect()
    }
}
