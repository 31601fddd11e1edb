//! What a device backend refuses of a step, before anything has changed.

use crate::{CoreError, Limits, Program, RequestLimits, Result, Step};

/// What a step is held to.
pub struct StepCheck<'a> {
    /// What the model was loaded for.
    pub limits: &'a Limits,
    /// What the device's lists of a request hold.
    pub request_limits: RequestLimits,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// How many entry programs there are.
    pub num_entries: usize,
}

impl StepCheck<'_> {
    /// Errors if `step` cannot be submitted. `in_flight`: the number of each step in flight, and
    /// whether it awaits masks; `program`: the entry program that the step names, if it exists.
    pub fn check(
        &self,
        step: &Step,
        mut in_flight: impl ExactSizeIterator<Item = (u64, bool)>,
        program: Option<&Program>,
    ) -> Result<()> {
        let refused = |problem| Err(CoreError::step(step.id, problem));
        if in_flight.len() >= self.limits.max_in_flight {
            return refused(format!("is one too many; {} may be in flight", self.limits.max_in_flight));
        }
        if let Some((waiting, _)) = in_flight.find(|(_, awaits_masks)| *awaits_masks) {
            return refused(format!("follows step {waiting}, which still awaits its masks"));
        }
        let Some(program) = program else {
            return refused(format!("names entry program {}; {} exist", step.entry, self.num_entries));
        };
        if let Some(seq) = step.seqs.iter().find(|s| s.outputs.iter().filter(|o| o.sample).count() > 1) {
            return refused(format!("samples several rows of slot {}; one a step is supported", seq.slot));
        }
        let rows = step.seqs.iter().flat_map(|seq| &seq.outputs);
        let target = rows.filter_map(|row| row.target).find(|token| token.index() >= self.vocab_size);
        if let Some(token) = target {
            return refused(format!("scores token {token}; the vocabulary has {}", self.vocab_size));
        }
        program.check_outputs(step)?;
        for reset in &step.resets {
            self.request_limits.check(&reset.sampling)?;
            let mut tokens = reset.prompt.iter().chain(reset.output.iter());
            if let Some(token) = tokens.find(|token| token.index() >= self.vocab_size) {
                let slot = reset.slot;
                return refused(format!(
                    "resets slot {slot} with token {token}; the vocabulary has {}",
                    self.vocab_size
                ));
            }
        }
        Ok(())
    }
}
