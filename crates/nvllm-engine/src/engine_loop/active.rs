//! Which sequence is which choice of whose request.

use std::collections::HashMap;

use nvllm_core::SeqId;

use crate::RequestId;
use crate::backlog::Queued;

/// Requests that the scheduler has and that have not ended.
#[derive(Default)]
pub(super) struct Active {
    by_seq: HashMap<SeqId, (RequestId, usize)>,
    by_request: HashMap<RequestId, Entry>,
}

struct Entry {
    /// One for each choice; `None` for those that have ended.
    seqs: Vec<Option<SeqId>>,
    /// Its place in the queue; `None` once a choice has a slot.
    queued: Option<Queued>,
}

impl Active {
    /// A request whose choices wait for slots.
    pub(super) fn insert(&mut self, id: RequestId, seqs: &[SeqId], queued: Queued) {
        self.by_seq.extend(seqs.iter().enumerate().map(|(choice, seq)| (*seq, (id, choice))));
        let seqs = seqs.iter().copied().map(Some).collect();
        self.by_request.insert(id, Entry { seqs, queued: Some(queued) });
    }

    /// A sequence has a slot: its request, and which choice of it that is.
    pub(super) fn admit(&mut self, seq: SeqId) -> Option<(RequestId, usize)> {
        let (id, choice) = self.of(seq)?;
        self.by_request.get_mut(&id)?.queued = None;
        Some((id, choice))
    }

    /// The sequence has ended.
    pub(super) fn remove(&mut self, seq: SeqId) {
        let Some((id, choice)) = self.by_seq.remove(&seq) else { return };
        if let Some(entry) = self.by_request.get_mut(&id) {
            entry.seqs[choice] = None;
            if entry.seqs.iter().all(Option::is_none) {
                self.by_request.remove(&id);
            }
        }
    }

    /// The request, and which choice of it the sequence is.
    pub(super) fn of(&self, seq: SeqId) -> Option<(RequestId, usize)> {
        self.by_seq.get(&seq).copied()
    }

    /// The sequences of a choice, or of all choices, that have not ended.
    pub(super) fn seqs_of(&self, id: RequestId, choice: Option<usize>) -> Vec<SeqId> {
        let seqs = self.by_request.get(&id).map_or(&[][..], |entry| &entry.seqs);
        match choice {
            None => seqs.iter().copied().flatten().collect(),
            Some(choice) => seqs.get(choice).copied().flatten().into_iter().collect(),
        }
    }

    /// All of them.
    pub(super) fn seqs(&self) -> Vec<SeqId> {
        self.by_seq.keys().copied().collect()
    }
}
