//! Masks of the sequences that have one, made while the step that awaits them runs.

use std::collections::HashMap;
use std::sync::Arc;

use nvllm_core::{SamplingParams, SeqId, Step, Ticket, TokenId, TokenMasks};
use nvllm_sched::FinishReason;

use super::EngineLoop;
use crate::token_mask::{TokenMask, all_tokens, bar};

/// The masks of sequences that have not ended.
pub(super) struct Masks {
    vocab_size: usize,
    by_seq: HashMap<SeqId, Masked>,
}

struct Masked {
    mask: Box<dyn TokenMask>,
    /// Its stop tokens are barred before `min_tokens`: by the sampler, after the mask.
    sampling: Arc<SamplingParams>,
}

impl Masks {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self { vocab_size, by_seq: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    /// The masks of a request's choices; there are none if it is not masked.
    pub(super) fn insert(
        &mut self,
        seqs: &[SeqId],
        masks: Vec<Box<dyn TokenMask>>,
        sampling: &Arc<SamplingParams>,
    ) {
        let masked = |mask| Masked { mask, sampling: Arc::clone(sampling) };
        self.by_seq.extend(seqs.iter().copied().zip(masks.into_iter().map(masked)));
    }

    /// The sequence has ended.
    pub(super) fn remove(&mut self, seq: SeqId) {
        self.by_seq.remove(&seq);
    }

    /// The mask of the token after `output`. Errors with the reason if no token may follow.
    fn make(&mut self, seq: SeqId, output: &[TokenId]) -> Result<Vec<u32>, String> {
        // A row awaits its mask only if its sequence came with one.
        let lost = || "its mask is lost; this is a fault in the engine".to_owned();
        let Masked { mask, sampling } = self.by_seq.get_mut(&seq).ok_or_else(lost)?;
        let mut words = all_tokens(self.vocab_size);
        mask.restrict(output, &mut words);
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
        Err(format!(
            "no token is left to sample after {} tokens: `allowed_token_ids`, `bad_words` and `min_tokens` \
             bar all; allow more",
            output.len()
        ))
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
            match self.masks.make(masked.seq, masked.output) {
                Ok(words) => masks.rows.push((masked.row, words)),
                Err(reason) => stuck.push((masked.seq, reason)),
            }
        }
        for (seq, reason) in stuck {
            let ended = self.sched.finish(seq, FinishReason::Failed);
            self.report(ended.into_iter().collect(), Some(&reason));
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
