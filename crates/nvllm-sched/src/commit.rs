//! What came back.

use nvllm_core::{BlockId, OutputRow, RowOutput, SeqStep, Step, StepId, StepOutput};

use crate::scheduler::{InFlight, Part};
use crate::sequence::Key;
use crate::sequence::Phase;
use crate::{FinishReason, Result, SchedError, Scheduler, SeqEvent};

impl Scheduler {
    /// Takes the output of the oldest step in flight, and says what it meant: sequences in step
    /// order, each with its rows in order and then its end, if it has come.
    ///
    /// Errors, with nothing changed, if the step is not in flight, an older one is, or the output
    /// lacks what was asked for.
    pub fn commit(&mut self, step: StepId, mut output: StepOutput) -> Result<Vec<SeqEvent>> {
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
        let Some(flight) = self.in_flight.pop_front() else { return Err(SchedError::UnknownStep { step }) };
        let (mut wants, mut rows) = (flight.rows.as_slice(), output.rows.as_mut_slice());
        let mut events = Vec::with_capacity(flight.parts.len());
        self.totals.num_steps += 1;
        for part in &flight.parts {
            self.count_prompt(part);
            let own_wants = wants.split_off(..part.num_rows).unwrap_or_default();
            let own_rows = rows.split_off_mut(..part.num_rows).unwrap_or_default();
            self.commit_part(part, own_wants, own_rows, &mut events);
            self.publish(part);
            self.unpin(part.key);
        }
        self.retire(flight);
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
            let unusable = rows.by_ref().take(seq.outputs.len()).filter(|row| row.unusable).count() > 0;
            let state = &self.seqs[part.key];
            // Those that have ended meanwhile need no reason.
            if !unusable || state.is_finished() {
                continue;
            }
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
        for part in &failed.parts {
            self.seqs[part.key].is_lost = true;
            self.finish_broken(part.key, FinishReason::Failed, &mut events);
            self.unpin(part.key);
        }
        self.retire(failed);
        Ok(events)
    }

    /// Ends a sequence that cannot go on, and with it the choices that wait for its prompt if rows
    /// of that are wanted which it has not reported: nobody else would.
    fn finish_broken(&mut self, key: Key, reason: FinishReason, events: &mut Vec<SeqEvent>) {
        let seq = &self.seqs[key];
        let wanted = seq.new.logits || seq.new.prompt_logprobs.is_some();
        let lacks = wanted && seq.reported + 1 < seq.prompt_len();
        let followers = if lacks { seq.followers.clone() } else { Vec::new() };
        for key in std::iter::once(key).chain(followers) {
            events.extend(self.finish_key(key, reason));
        }
    }

    /// Counts the prompt tokens that a committed step computed for a sequence.
    fn count_prompt(&mut self, part: &Part) {
        let prompt_len = self.seqs[part.key].prompt_len();
        let computed = (part.first + part.len).min(prompt_len) - part.first.min(prompt_len);
        self.totals.num_prompt_tokens += computed as u64;
    }

    /// Takes in the rows of a part, one for each of `wants`.
    fn commit_part(
        &mut self,
        part: &Part,
        wants: &[OutputRow],
        rows: &mut [RowOutput],
        events: &mut Vec<SeqEvent>,
    ) {
        let state = &mut self.seqs[part.key];
        if state.is_finished() {
            state.is_lost |= rows.iter().any(|row| row.unusable);
            return;
        }
        let seq = state.id;
        let mut reason = None;
        let num_before = state.output.len();
        for (want, row) in wants.iter().zip(rows) {
            let index = part.first + want.index as usize;
            if row.unusable {
                state.is_lost = true;
                reason = Some(FinishReason::Unusable);
                break;
            }
            state.reported = index + 1;
            if let Some(token) = row.token.filter(|_| want.sample) {
                state.output.push(token);
                // Made where it lies: `push` would make it on the stack and move it.
                events.extend(std::iter::once_with(|| SeqEvent::Token {
                    seq,
                    index,
                    token,
                    logprobs: row.logprobs.take().filter(|_| want.top_logprobs.is_some()),
                    logits: row.values.take(),
                }));
                if state.stop_tokens.contains(&token) {
                    reason = Some(FinishReason::StopToken(token));
                }
            } else {
                let logprobs = row.logprobs.take().filter(|_| want.target.is_some());
                events.push(SeqEvent::PromptRow { seq, index, logprobs, logits: row.values.take() });
            }
        }
        let num_new = state.output.len() - num_before;
        let prompt_done = part.first + part.len >= state.prompt_len();
        if reason.is_none() && prompt_done && state.output.len() >= state.max_tokens {
            reason = Some(FinishReason::Length);
        }
        self.totals.num_output_tokens += num_new as u64;
        self.queue.charge(state.place(), num_new);
        match reason {
            Some(FinishReason::Unusable) => self.finish_broken(part.key, FinishReason::Unusable, events),
            Some(reason) => events.extend(self.finish_key(part.key, reason)),
            None => {}
        }
    }

    /// Lets other sequences find the blocks that a committed step has filled and, when that was the
    /// end of the prompt, the other choices share them; gives those back that no later row sees.
    fn publish(&mut self, part: &Part) {
        let Self { config, pools, seqs, .. } = self;
        let seq = &mut seqs[part.key];
        if seq.is_lost {
            return;
        }
        let end = part.first + part.len;
        seq.committed = end;
        // A sequence that has ended may have run on from tokens that nobody knows.
        let filled = end.min(seq.prompt_len() + seq.output.len());
        let has_new = filled >= (seq.num_published + 1) * config.block_len;
        if has_new && config.prefix_cache && !seq.is_private && seq.new.positions.is_none() {
            let num_full = filled / config.block_len;
            seq.hash_blocks(num_full, config.block_len);
            let tables = seq.allocation.iter().flat_map(|held| &held.tables);
            for (pool, table) in pools.iter_mut().zip(tables) {
                let full = table.iter().zip(&seq.hashes).take(num_full).skip(seq.num_published);
                let full = full.filter(|(block, _)| **block != BlockId::NULL);
                full.for_each(|(block, hash)| pool.publish(*block, *hash));
            }
            seq.num_published = num_full;
        }
        let has_followers = end >= seq.prompt_len() && !seq.followers.is_empty();
        if config.has_windows() {
            self.give_back(part.key, end);
        }
        if has_followers {
            self.enqueue_followers(part.key);
        }
    }

    /// Takes note that a step with this sequence is over.
    fn unpin(&mut self, key: Key) {
        let seq = &mut self.seqs[key];
        seq.in_flight = seq.in_flight.saturating_sub(1);
        if seq.phase != Phase::Running {
            self.settle(key);
        }
    }

    /// Gives back the blocks that a step copied from, and keeps its memory for another step.
    fn retire(&mut self, mut flight: InFlight) {
        flight.parts.clear();
        flight.rows.clear();
        flight.copied.drain(..).for_each(|(group, block)| self.pools[group].release(&[block]));
        self.spare_flight = Some(flight);
    }
}

/// Whether a backend's output has everything that the step's rows want.
fn check_output(step: &InFlight, output: &StepOutput) -> Result<(), String> {
    if output.rows.len() != step.rows.len() {
        return Err(format!("has {} rows; the step wants {}", output.rows.len(), step.rows.len()));
    }
    for (i, (want, row)) in step.rows.iter().zip(&output.rows).enumerate() {
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
