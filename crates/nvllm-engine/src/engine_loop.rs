//! The thread that owns the device: plan, submit, collect, commit, and on to the next step.
//!
//! It makes ids only. Their text and the clients are the [text stage](crate::text_stage)'s, which
//! runs beside it.

mod active;
mod command;
mod load;
mod mask_job;
mod mask_workers;
mod masks;
mod reading;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use nvllm_core::{Backend, Executable, SeqId, Step, StepId, Ticket, TokenMasks};
use nvllm_sched::{FinishReason, NewSequence, Scheduler, SeqEvent, Stats};

use self::active::Active;
pub(crate) use self::command::Command;
use self::mask_job::NoToken;
use self::masks::Masks;
use crate::RequestId;
use crate::backlog::Queued;
use crate::shared::Shared;
use crate::stats::DeviceTime;
use crate::text_stage::{Message, NOT_NUMBERS, Output};
use crate::token_mask::TokenMask;

/// The device thread's state.
pub(crate) struct EngineLoop {
    backend: Box<dyn Backend>,
    exe: Box<dyn Executable>,
    sched: Scheduler,
    in_flight: VecDeque<(Ticket, Step)>,
    active: Active,
    masks: Masks,
    /// Where deadlines are counted from.
    epoch: Instant,
    device_time: DeviceTime,
    read_bandwidth: Option<f64>,
    /// Whether it has been looked up once at which op logits stopped being numbers.
    looked_for_unusable: bool,
    /// To the text stage.
    stage: Sender<Message>,
    shared: Arc<Shared>,
}

impl EngineLoop {
    /// Serves until told to stop.
    pub(crate) fn run(&mut self, inbox: &Receiver<Command>) {
        let mut busy = false;
        loop {
            // With nothing in flight and nothing to plan only a command can change that. Until one
            // comes there is time to prepare.
            if !busy {
                while inbox.is_empty() && self.prepare(true) {}
                // What the device waits for now is not the host.
                self.device_time.pause();
                let Ok(command) = inbox.recv() else { return };
                if self.obey(command).is_break() {
                    return;
                }
            }
            while let Ok(command) = inbox.try_recv() {
                if self.obey(command).is_break() {
                    return;
                }
            }
            self.expire();
            busy = self.step();
            if busy {
                self.prepare(false);
            }
        }
    }

    /// Has the backend do what makes later steps faster. Never before the first step: its token
    /// does not wait. False if there was nothing to do.
    fn prepare(&mut self, idle: bool) -> bool {
        if self.sched.stats().totals.num_steps == 0 {
            return false;
        }
        match self.exe.prepare(idle) {
            Ok(did) => did,
            Err(error) => {
                self.fail_for_good(&error.to_string());
                false
            }
        }
    }

    fn publish(&self, sched: Stats) {
        self.shared.stats.publish(sched, self.device_time, self.exe.exact_head());
    }

    /// What is held for requests goes with this thread.
    pub(crate) fn release(&self) {
        let gone = Stats { totals: self.sched.stats().totals, ..Stats::default() };
        self.publish(gone);
    }

    fn obey(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Submit { id, new, n, masks, queued } => self.submit(id, &new, n, masks, queued),
            Command::Finish { id, choice, reason } => self.finish(id, choice, reason),
            Command::AddTenant { weight } => self.sched.add_tenant(weight),
            Command::ResetPrefixCache => self.sched.reset_prefix_cache(),
            Command::Bandwidth { reply } => drop(reply.send(self.read_bandwidth())),
            Command::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Measured once: a conversation does not wait for it after every answer.
    fn read_bandwidth(&mut self) -> nvllm_core::Result<Option<f64>> {
        if self.read_bandwidth.is_none() {
            self.read_bandwidth = self.backend.measure_read_bandwidth()?;
        }
        Ok(self.read_bandwidth)
    }

    fn submit(
        &mut self,
        id: RequestId,
        new: &NewSequence,
        n: usize,
        masks: Vec<Box<dyn TokenMask>>,
        queued: Queued,
    ) {
        let added = match self.shared.failure.reason() {
            // It failed after the caller had looked.
            Some(reason) => Err(reason.to_owned()),
            None => self.sched.add_choices(new, n).map_err(|e| e.to_string()),
        };
        match added {
            Ok(seqs) => {
                self.masks.insert(&seqs, masks, &new.sampling);
                self.active.insert(id, &seqs, queued);
            }
            Err(error) => {
                let failed = |choice| {
                    let error = Some(error.clone());
                    (id, choice, Output::Finished { reason: FinishReason::Failed, error })
                };
                self.send((0..n).map(failed).collect());
            }
        }
    }

    fn finish(&mut self, id: RequestId, choice: Option<usize>, reason: FinishReason) {
        for seq in self.active.seqs_of(id, choice) {
            self.sched.finish(seq, reason);
            self.forget(seq);
        }
    }

    /// The sequence has ended.
    fn forget(&mut self, seq: SeqId) {
        self.active.remove(seq);
        self.masks.remove(seq);
    }

    /// Ends those whose deadline has passed.
    fn expire(&mut self) {
        let events = self.sched.expire(self.epoch.elapsed());
        if !events.is_empty() {
            self.report(events, None);
        }
    }

    /// Launches what can be launched, then takes in the oldest step. False if there was neither.
    fn step(&mut self) -> bool {
        let mut planned = false;
        while let Some(step) = self.sched.plan() {
            planned = true;
            self.note_admitted();
            // Before the step: on the host it runs to its end within the call.
            self.publish(self.sched.stats());
            match self.exe.submit(&step) {
                Ok(ticket) if !self.masks.is_empty() && step.awaits_masks() => {
                    if self.mask(ticket, step) {
                        return true;
                    }
                }
                Ok(ticket) => self.in_flight.push_back((ticket, step)),
                Err(e) => self.fail(step.id, &e.to_string()),
            }
        }
        let Some((ticket, step)) = self.in_flight.pop_front() else {
            self.publish(self.sched.stats());
            return planned;
        };
        self.take_in(ticket, &step, true);
        true
    }

    /// Waits for the oldest step and hands on what it made. `may_look`: whether the device may run
    /// something else before the step after it has ended.
    fn take_in(&mut self, ticket: Ticket, step: &Step, may_look: bool) {
        let collected = self.exe.collect(ticket).map_err(|e| e.to_string());
        let committed = collected.and_then(|output| {
            let unusable = self.sched.unusable_part(step, &output);
            let not_numbers = unusable.filter(|_| may_look).map(|part| self.not_numbers(&part));
            self.device_time.count(output.span);
            let events = self.sched.commit(step.id, output).map_err(|e| e.to_string())?;
            Ok((events, not_numbers))
        });
        match committed {
            Ok((events, not_numbers)) => self.report(events, not_numbers.as_deref()),
            Err(error) => self.fail(step.id, &error),
        }
    }

    /// Supplies the masks of a step that awaits them and was just submitted. They depend on what
    /// the steps before it sample, so these are taken in first, while it runs. True if there were
    /// such steps.
    fn mask(&mut self, ticket: Ticket, step: Step) -> bool {
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

    /// Why the sequences of `part` end: their logits are no numbers. The first time it is looked up
    /// from which op on: that runs the part once more and reads every value, and all others wait.
    fn not_numbers(&mut self, part: &Step) -> String {
        if std::mem::replace(&mut self.looked_for_unusable, true) {
            return NOT_NUMBERS.into();
        }
        match self.exe.find_unusable(part) {
            Ok(Some(op)) => {
                format!("{NOT_NUMBERS}; in its last step the first op that made them is `{op}`")
            }
            // What it takes to tell may fail, and the device with it: then the next step says so.
            Ok(None) | Err(_) => NOT_NUMBERS.into(),
        }
    }

    /// Tells the text stage which requests have slots now.
    fn note_admitted(&mut self) {
        let at = Instant::now();
        let mut outputs = Vec::new();
        // Who was preempted had a slot before.
        for admitted in self.sched.admitted().iter().filter(|admitted| !admitted.resumed) {
            self.masks.start(admitted.seq);
            let Some((id, choice)) = self.active.admit(admitted.seq) else { continue };
            outputs.push((id, choice, Output::Admitted { at, cached_tokens: admitted.cached_tokens }));
        }
        self.send(outputs);
    }

    /// Ends every sequence of a step that failed; if the device has failed for good, all.
    fn fail(&mut self, step: StepId, error: &str) {
        // Before anyone hears of it: who then submits again is to be refused.
        self.note_failure();
        match self.sched.fail(step) {
            Ok(events) => {
                self.report(events, Some(error));
                self.fail_for_good(error);
            }
            // A fault of the scheduler: whose step it was is not known, and nobody may wait for
            // ever.
            Err(e) => self.fail_all(&format!("{error}; {e}")),
        }
    }

    /// Whether the device has failed for good, which is noted.
    fn note_failure(&self) -> bool {
        let reason = self.exe.failure();
        let failed = reason.is_some();
        reason.into_iter().for_each(|reason| self.shared.failure.note(reason));
        failed
    }

    /// Ends all sequences if the device has failed for good.
    fn fail_for_good(&mut self, error: &str) {
        if self.note_failure() {
            self.fail_all(error);
        }
    }

    fn fail_all(&mut self, error: &str) {
        let finish = |seq| self.sched.finish(seq, FinishReason::Failed);
        let events = self.active.seqs().into_iter().filter_map(finish).collect();
        self.report(events, Some(error));
    }

    /// Hands the scheduler's news on.
    fn report(&mut self, events: Vec<SeqEvent>, error: Option<&str>) {
        let at = Instant::now();
        let mut outputs = Vec::with_capacity(events.len());
        for event in events {
            let seq = event.seq();
            if let SeqEvent::Token { token, .. } = &event {
                self.masks.push(seq, *token);
            }
            let Some((id, choice)) = self.active.of(seq) else { continue };
            outputs.push((
                id,
                choice,
                match event {
                    SeqEvent::PromptRow { index, logprobs, logits, .. } => {
                        Output::PromptRow { index, logprobs, logits }
                    }
                    SeqEvent::Token { token, logprobs, logits, .. } => {
                        Output::Token { token, logprobs, logits, at }
                    }
                    SeqEvent::Finished { reason: FinishReason::Unusable, .. } => {
                        self.forget(seq);
                        let error = Some(error.unwrap_or(NOT_NUMBERS).into());
                        Output::Finished { reason: FinishReason::Failed, error }
                    }
                    SeqEvent::Finished { reason, .. } => {
                        self.forget(seq);
                        let has_error = matches!(reason, FinishReason::Failed | FinishReason::Barred);
                        let error = error.filter(|_| has_error).map(String::from);
                        Output::Finished { reason, error }
                    }
                },
            ));
        }
        // Before the clients hear of it: who looks then finds it counted.
        self.publish(self.sched.stats());
        self.send(outputs);
    }

    fn send(&self, outputs: Vec<(RequestId, usize, Output)>) {
        if !outputs.is_empty() {
            // The text stage ends before this thread only when the engine is dropped: then nobody
            // listens.
            let _ = self.stage.send(Message::Outputs(outputs));
        }
    }
}
