//! What came back.

use nvllm_core::{RowOutput, SeqId, SeqStep, Step, StepId, StepOutput};

use crate::scheduler::{InFlight, Part};
use crate::sequence::Sequence;
use crate::{FinishReason, Result, SchedError, Scheduler, SeqEvent};

impl Scheduler {
    /// Takes the output of the oldest step in flight, and says what it meant: sequences in step
    /// order, each with its rows in order and then its end, if it has come.
    ///
    /// Errors, with nothing changed, if the step is not in flight, an older one is, or the output
    /// lacks what was asked for.
    pub fn commit(&mut self, step: StepId, output: StepOutput) -> Result<Vec<SeqEvent>> {
        let first = self.in_flight.front().map(|f| f.id);
        if first != Some(step) {
            return match first.filter(|_| self.in_flight.iter().any(|f| f.id == step)) {
                Some(first) => Err(SchedError::OutOfOrder { step, first }),
                None => Err(SchedError::UnknownStep { step }),
            };
        }
        if let Some(front) = self.in_flight.front() {
            check_output(front, &output).map_err(|problem| SchedError::BadOutput { step, problem })?;
        }
        let parts = self.in_flight.pop_front().map_or_else(Vec::new, |front| front.parts);
        let mut rows = output.rows.into_iter();
        let mut events = Vec::new();
        self.totals.num_steps += 1;
        for part in parts {
            self.count_prompt(&part);
            // All of its rows, whether they are looked at or not: the next sequence's follow them.
            let rows = rows.by_ref().take(part.rows.len()).collect();
            self.commit_part(&part, rows, &mut events);
            self.unpin(part.seq);
        }
        Ok(events)
    }

    /// The sequences of the oldest step in flight that are about to end because rows of `output`
    /// are [unusable](RowOutput::unusable), as a step to be run once more: all tokens named, which
    /// the host has known since the step before was committed, and no slot reset. `None` if there
    /// is no such sequence.
    pub fn unusable_part(&self, step: &Step, output: &StepOutput) -> Option<Step> {
        let flight = self.in_flight.iter().find(|flight| flight.id == step.id)?;
        let mut rows = output.rows.iter();
        let mut part_of_step = Step { id: step.id, entry: step.entry, ..Step::default() };
        for (seq, part) in step.seqs.iter().zip(&flight.parts) {
            // Those that have ended meanwhile need no reason.
            let lives = |state: &&Sequence| state.finished.is_none();
            let unusable = rows.by_ref().take(seq.outputs.len()).filter(|row| row.unusable).count() > 0;
            let state = self.seqs.get(&part.seq).filter(|_| unusable).filter(lives);
            let Some(state) = state else { continue };
            let tokens = (part.first..part.first + part.len).map(|index| state.token(index)).collect();
            part_of_step.seqs.push(SeqStep { tokens, ..seq.clone() });
        }
        (!part_of_step.seqs.is_empty()).then_some(part_of_step)
    }

    /// Gives up a step that the backend could not run, or whose output is lost: its sequences end
    /// with [`FinishReason::Failed`]. It may be any step in flight.
    ///
    /// Errors if the step is not in flight.
    pub fn fail(&mut self, step: StepId) -> Result<Vec<SeqEvent>> {
        let at = self.in_flight.iter().position(|f| f.id == step);
        let failed = at.and_then(|at| self.in_flight.remove(at)).ok_or(SchedError::UnknownStep { step })?;
        let mut events = Vec::new();
        for part in failed.parts {
            events.extend(self.finish(part.seq, FinishReason::Failed));
            self.unpin(part.seq);
        }
        Ok(events)
    }

    /// Counts the prompt tokens that a committed step computed for a sequence.
    fn count_prompt(&mut self, part: &Part) {
        let prompt_len = self.seqs.get(&part.seq).map_or(0, Sequence::prompt_len);
        let computed = (part.first + part.len).min(prompt_len) - part.first.min(prompt_len);
        self.totals.num_prompt_tokens += computed as u64;
    }

    fn commit_part(&mut self, part: &Part, rows: Vec<RowOutput>, events: &mut Vec<SeqEvent>) {
        let seq = part.seq;
        let Some(state) = self.seqs.get_mut(&seq).filter(|s| s.finished.is_none()) else { return };
        let mut reason = None;
        for (want, RowOutput { token, logprobs, values: logits, unusable }) in part.rows.iter().zip(rows) {
            let index = part.first + want.index as usize;
            if unusable {
                reason = Some(FinishReason::Unusable);
                break;
            }
            if let Some(token) = token.filter(|_| want.sample) {
                let logprobs = logprobs.filter(|_| want.top_logprobs.is_some());
                state.output.push(token);
                self.totals.num_output_tokens += 1;
                events.push(SeqEvent::Token { seq, index, token, logprobs, logits });
                if state.new.sampling.stop_tokens.contains(&token) {
                    reason = Some(FinishReason::StopToken(token));
                }
            } else {
                let logprobs = logprobs.filter(|_| want.target.is_some());
                events.push(SeqEvent::PromptRow { seq, index, logprobs, logits });
            }
        }
        let prompt_done = part.first + part.len >= state.prompt_len();
        if reason.is_none() && prompt_done && state.output.len() >= state.max_tokens {
            reason = Some(FinishReason::Length);
        }
        events.extend(reason.and_then(|reason| self.finish(seq, reason)));
    }

    /// Takes note that a step with this sequence is over.
    fn unpin(&mut self, seq: SeqId) {
        if let Some(state) = self.seqs.get_mut(&seq) {
            state.in_flight = state.in_flight.saturating_sub(1);
        }
        self.forget_if_unpinned(seq);
    }
}

/// Whether a backend's output has everything that the step's rows want.
fn check_output(step: &InFlight, output: &StepOutput) -> Result<(), String> {
    let wants: Vec<_> = step.parts.iter().flat_map(|part| &part.rows).collect();
    if output.rows.len() != wants.len() {
        return Err(format!("has {} rows; the step wants {}", output.rows.len(), wants.len()));
    }
    for (i, (want, row)) in wants.into_iter().zip(&output.rows).enumerate() {
        if row.unusable {
            continue;
        }
        let lacks = [
            ("token", want.sample && row.token.is_none()),
            ("log-probabilities", want.scored() && row.logprobs.is_none()),
            ("logits", want.values && row.values.is_none()),
        ];
        if let Some((what, _)) = lacks.into_iter().find(|(_, lacks)| *lacks) {
            return Err(format!("lacks the {what} of row {i}"));
        }
    }
    Ok(())
}
