//! Masks of the sequences that have one. Other threads make each as soon as the token before it is
//! known, so that it is there when the step that awaits it has computed its logits.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use nvllm_core::{SamplingParams, SeqId, TokenId};

use super::mask_job::{MaskJob, NoToken};
use super::mask_workers::MaskWorkers;
use crate::token_mask::TokenMask;

/// The masks of sequences that have not ended.
pub(super) struct Masks {
    vocab_size: usize,
    by_seq: HashMap<SeqId, Masked>,
    workers: MaskWorkers,
}

/// A sequence under a rule, whose next mask is made or being made.
struct Masked {
    /// The last mask and what makes the next one; `None` while another thread has it.
    job: Option<Box<MaskJob>>,
    back: Receiver<Box<MaskJob>>,
    /// The other end of `back`, for whoever makes a mask.
    returns: Sender<Box<MaskJob>>,
}

impl Masked {
    /// Waits for the mask that is being made, if one is.
    fn job(&mut self) -> Option<&mut Box<MaskJob>> {
        if self.job.is_none() {
            self.job = self.back.recv().ok();
        }
        self.job.as_mut()
    }
}

impl Masks {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self { vocab_size, by_seq: HashMap::new(), workers: MaskWorkers::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    /// The rules of a request's choices; there are none if it is not masked.
    pub(super) fn insert(
        &mut self,
        seqs: &[SeqId],
        rules: Vec<Box<dyn TokenMask>>,
        sampling: &Arc<SamplingParams>,
    ) {
        for (&seq, rule) in seqs.iter().zip(rules) {
            let (returns, back) = bounded(1);
            let job = MaskJob::new(rule, Arc::clone(sampling), self.vocab_size);
            self.by_seq.insert(seq, Masked { job: Some(Box::new(job)), back, returns });
        }
    }

    /// The sequence is admitted: its first mask is made from now on. Not before, as what a rule
    /// holds is nothing for a queue.
    pub(super) fn start(&mut self, seq: SeqId) {
        self.run(seq, None);
    }

    /// The sequence has sampled a token: its next mask is made from now on.
    pub(super) fn push(&mut self, seq: SeqId, token: TokenId) {
        self.run(seq, Some(token));
    }

    fn run(&mut self, seq: SeqId, token: Option<TokenId>) {
        let Some(masked) = self.by_seq.get_mut(&seq) else { return };
        masked.job();
        if let Some(mut job) = masked.job.take() {
            if let Some(token) = token {
                job.push(token);
            }
            self.workers.run(job, masked.returns.clone());
        }
    }

    /// The sequence has ended.
    pub(super) fn remove(&mut self, seq: SeqId) {
        self.by_seq.remove(&seq);
    }

    /// The mask of the token after `output`, once it is made. Errors if no token may follow.
    pub(super) fn take(&mut self, seq: SeqId, output: &[TokenId]) -> Result<Vec<u32>, NoToken> {
        // A row awaits its mask only if its sequence came with a rule, and each of its tokens was
        // pushed.
        let job = self.by_seq.get_mut(&seq).and_then(Masked::job);
        job.map_or_else(|| Err(NoToken::lost()), |job| job.mask_after(output))
    }
}
