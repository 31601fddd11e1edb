//! Masks of the sequences that have one. Other threads make each as soon as the token before it is
//! known, so that it is there when the step that awaits it has computed its logits.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use nvllm_core::{SamplingParams, SeqId, Step, Ticket, TokenId, TokenMasks};
use nvllm_sched::FinishReason;

use super::EngineLoop;
use super::mask_workers::MaskWorkers;
use crate::text::contained;
use crate::token_mask::{TokenMask, all_tokens, bar};

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

/// What one mask is made from, and the mask.
pub(super) struct MaskJob {
    rule: Box<dyn TokenMask>,
    /// What the sequence has sampled.
    output: Vec<TokenId>,
    /// Its stop tokens are barred before `min_tokens`: by the sampler, after the mask.
    sampling: Arc<SamplingParams>,
    vocab_size: usize,
    made: Result<Vec<u32>, NoToken>,
}

/// Why no token may follow an output.
#[derive(Clone, Debug)]
struct NoToken {
    reason: FinishReason,
    error: Option<String>,
}

impl NoToken {
    fn lost() -> Self {
        let error = "its mask is lost; this is a fault in the engine";
        Self { reason: FinishReason::Failed, error: Some(error.into()) }
    }

    fn barred(error: impl Into<String>) -> Self {
        Self { reason: FinishReason::Barred, error: Some(error.into()) }
    }
}

impl MaskJob {
    /// Makes the mask of the token after the output. A panic ends this sequence only: whoever waits
    /// for the job has it back.
    pub(super) fn run(&mut self) {
        self.made = contained(|| self.make()).unwrap_or_else(|| Err(NoToken::lost()));
    }

    fn make(&mut self) -> Result<Vec<u32>, NoToken> {
        let Self { rule, output, sampling, vocab_size, .. } = self;
        let mut words = all_tokens(*vocab_size);
        let stuck = |reason| {
            format!("after {} tokens what restricts them cannot be followed: {reason}", output.len())
        };
        rule.restrict(output, &mut words).map_err(|reason| NoToken::barred(stuck(reason)))?;
        let is_early = output.len() < sampling.min_tokens as usize;
        let left = |words: &[u32]| words.iter().any(|word| *word != 0);
        let some_left = left(&words)
            && (!is_early || {
                let mut words = words.clone();
                sampling.stop_tokens.iter().for_each(|token| bar(&mut words, *token));
                left(&words)
            });
        if some_left {
            return Ok(words);
        }
        if rule.is_complete() {
            return Err(NoToken { reason: FinishReason::Complete, error: None });
        }
        Err(NoToken::barred(format!(
            "no token is left to sample after {} tokens: what restricts them (`allowed_token_ids`, `bad_words`, \
             `min_tokens`, a grammar) bars all; allow more",
            output.len()
        )))
    }
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
            let job = MaskJob {
                rule,
                output: Vec::new(),
                sampling: Arc::clone(sampling),
                vocab_size: self.vocab_size,
                made: Err(NoToken::lost()),
            };
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
            job.output.extend(token);
            self.workers.run(job, masked.returns.clone());
        }
    }

    /// The sequence has ended.
    pub(super) fn remove(&mut self, seq: SeqId) {
        self.by_seq.remove(&seq);
    }

    /// The mask of the token after `output`, once it is made. Errors if no token may follow.
    fn take(&mut self, seq: SeqId, output: &[TokenId]) -> Result<Vec<u32>, NoToken> {
        // A row awaits its mask only if its sequence came with a rule, and each of its tokens was
        // pushed.
        let job = self.by_seq.get_mut(&seq).and_then(Masked::job);
        match job.filter(|job| job.output == output) {
            Some(job) => job.made.clone(),
            None => Err(NoToken::lost()),
        }
    }
}

impl EngineLoop {
    /// Supplies the masks of a step that awaits them and was just submitted. They depend on what
    /// the steps before it sample, so these are taken in first, while it runs. True if there were
    /// such steps.
    pub(super) fn mask(&mut self, ticket: Ticket, step: Step) -> bool {
        let mut took_in = false;
        while let Some((earlier, step)) = self.in_flight.pop_front() {
            took_in = true;
            self.take_in(earlier, &step, false);
        }
        let mut masks = TokenMasks::default();
        let mut stuck = Vec::new();
        for masked in self.sched.masked_rows(step.id) {
            match self.masks.take(masked.seq, masked.output) {
                Ok(words) => masks.rows.push((masked.row, words)),
                Err(no_token) => stuck.push((masked.seq, no_token)),
            }
        }
        for (seq, NoToken { reason, error }) in stuck {
            let ended = self.sched.finish(seq, reason);
            self.report(ended.into_iter().collect(), error.as_deref());
        }
        match self.exe.supply_masks(&ticket, masks) {
            Ok(()) => self.in_flight.push_back((ticket, step)),
            Err(error) => {
                // Nothing else runs while a step awaits its masks: it is sampled without and
                // dropped. If that fails too, so does the next step, which says why.
                let _ = self.exe.supply_masks(&ticket, TokenMasks::default());
                let _ = self.exe.collect(ticket);
                self.fail(step.id, &error.to_string());
            }
        }
        took_in
    }
}
