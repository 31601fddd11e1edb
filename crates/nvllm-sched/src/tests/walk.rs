//! Random walks: any interleaving of add, abort, finish, plan, commit and failed steps, with all
//! invariants checked after every call and every event compared with what the sequence would do
//! alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use nvllm_core::{SamplingParams, SeqId, Step, StepId, TokenId};

use super::executor::Executor;
use super::faults::Fault;
use super::model::{Rng, Seen, VOCAB, expected_events, expected_max_tokens};
use crate::{FinishReason, NewSequence, SchedConfig, Scheduler, SeqEvent};

/// What is still to come of a sequence.
type Coming = BTreeMap<SeqId, VecDeque<Seen>>;

pub(super) struct Walk {
    pub(super) rng: Rng,
    pub(super) sched: Scheduler,
    executor: Executor,
    coming: Coming,
    /// What to get wrong, once.
    pub(super) fault: Option<Fault>,
    /// Whether it was.
    pub(super) planted: bool,
    admitted: BTreeSet<SeqId>,
    /// Tokens that events brought.
    num_tokens: u64,
    counts: Counts,
}

/// What a walk came across, so that a test can say that the walks go everywhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    sequences: usize,
    refused: usize,
    steps: usize,
    failed: usize,
    from_slot: usize,
    chunked: usize,
    queued: usize,
    stopped: usize,
    ended_early: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sequences += other.sequences;
        self.refused += other.refused;
        self.steps += other.steps;
        self.failed += other.failed;
        self.from_slot += other.from_slot;
        self.chunked += other.chunked;
        self.queued += other.queued;
        self.stopped += other.stopped;
        self.ended_early += other.ended_early;
    }
}

impl Walk {
    /// Walks from `seed` until every sequence has ended; on an error the first line names what is
    /// wrong.
    pub(super) fn run(seed: u64, fault: Option<Fault>) -> (bool, Result<Counts, String>) {
        let mut rng = Rng::new(seed);
        let config = random_config(&mut rng);
        let sched = Scheduler::new(config.clone()).expect("a valid configuration");
        let executor = Executor::new(&config);
        let mut walk = Self {
            rng,
            sched,
            executor,
            coming: Coming::new(),
            fault,
            planted: false,
            admitted: BTreeSet::new(),
            num_tokens: 0,
            counts: Counts::default(),
        };
        let result = walk.walk();
        (walk.planted, result.map(|()| walk.counts).map_err(|e| format!("{e}\nseed {seed}, {config:?}")))
    }

    fn walk(&mut self) -> Result<(), String> {
        for _ in 0..self.rng.range(10..=80) {
            match self.rng.below(16) {
                0..=3 => self.add()?,
                4..=9 => self.plan()?,
                10..=13 => self.commit()?,
                14 => self.end(FinishReason::Aborted)?,
                _ => self.end(FinishReason::StopString)?,
            }
            self.check()?;
        }
        self.drain()
    }

    /// Runs until nothing is left. Bounded: every step brings at least one token further.
    fn drain(&mut self) -> Result<(), String> {
        for _ in 0..5000 {
            if self.sched.is_idle() {
                let unfinished = self.coming.iter().find(|(_, events)| !events.is_empty());
                let used = self.sched.stats().used_blocks;
                return match unfinished {
                    Some((seq, events)) => Err(format!("sequence {seq} is forgotten before {:?}", events[0])),
                    None if used > 0 => Err(format!("{used} blocks are used when idle")),
                    None if self.sched.stats().totals.num_output_tokens != self.num_tokens => {
                        Err(format!("{} tokens came: {:?}", self.num_tokens, self.sched.stats().totals))
                    }
                    None => Ok(()),
                };
            }
            let steps = self.counts.steps;
            self.plan()?;
            self.check()?;
            if self.counts.steps == steps && self.sched.stats().num_in_flight == 0 && !self.sched.is_idle() {
                return Err(format!("is stuck: {:?}", self.sched.stats()));
            }
            if self.rng.one_in(2) {
                self.commit()?;
                self.check()?;
            }
        }
        Err(format!("does not end: {:?}", self.sched.stats()))
    }

    fn check(&mut self) -> Result<(), String> {
        if let Some(fault) = self.fault.filter(|_| !self.planted) {
            self.planted = fault.in_state(&mut self.sched);
        }
        self.sched.check().map_err(|e| e.to_string())
    }

    fn add(&mut self) -> Result<(), String> {
        let new = random_sequence(&mut self.rng, self.sched.config());
        let expected = expected_max_tokens(&new, self.sched.config());
        match (self.sched.add(new.clone()), expected) {
            (Ok(seq), Some(max_tokens)) => {
                self.counts.sequences += 1;
                self.coming.insert(seq, expected_events(&new, max_tokens).into());
            }
            (Err(_), None) => self.counts.refused += 1,
            (got, expected) => return Err(format!("add gave {got:?}, expected {expected:?} for {new:?}")),
        }
        Ok(())
    }

    fn plan(&mut self) -> Result<(), String> {
        let Some(mut step) = self.sched.plan() else { return Ok(()) };
        let admitted = self.sched.admitted();
        if admitted.len() != step.resets.len() || !admitted.iter().all(|a| self.admitted.insert(a.seq)) {
            return Err(format!("{admitted:?} were admitted with {} slots", step.resets.len()));
        }
        self.counts.steps += 1;
        self.counts.queued += self.sched.stats().num_waiting;
        self.count(&step);
        if self.rng.one_in(100) {
            self.counts.failed += 1;
            return self.fail(step.id);
        }
        if let Some(fault) = self.fault.filter(|_| !self.planted) {
            self.planted = fault.in_step(&mut step);
        }
        self.executor.submit(&step)
    }

    fn commit(&mut self) -> Result<(), String> {
        let Some((id, mut output)) = self.executor.collect() else { return Ok(()) };
        if self.rng.one_in(100) {
            self.counts.failed += 1;
            return self.fail(id);
        }
        if let Some(fault) = self.fault.filter(|_| !self.planted) {
            self.planted = fault.in_output(&mut output);
        }
        let mut events = self.sched.commit(id, output).map_err(|e| e.to_string())?;
        if let Some(fault) = self.fault.filter(|_| !self.planted) {
            self.planted = fault.in_events(&mut events);
        }
        events.into_iter().try_for_each(|event| self.see(event))
    }

    fn fail(&mut self, step: StepId) -> Result<(), String> {
        for event in self.sched.fail(step).map_err(|e| e.to_string())? {
            self.see_end(event, FinishReason::Failed)?;
        }
        Ok(())
    }

    /// Ends a random sequence, which may have ended already.
    fn end(&mut self, reason: FinishReason) -> Result<(), String> {
        let seq = SeqId(self.rng.range(0..=self.coming.len() + 1) as u64);
        let alive = self.coming.get(&seq).is_some_and(|events| !events.is_empty());
        let event = match reason {
            FinishReason::Aborted => self.sched.abort(seq),
            reason => self.sched.finish(seq, reason),
        };
        match event {
            Some(event) => self.see_end(event, reason),
            None if alive => Err(format!("sequence {seq} lives and cannot be ended")),
            None => Ok(()),
        }
    }

    fn see(&mut self, event: SeqEvent) -> Result<(), String> {
        self.num_tokens += u64::from(matches!(event, SeqEvent::Token { .. }));
        let (seq, seen) = Seen::new(event);
        self.counts.stopped += usize::from(matches!(seen, Seen::Finished(FinishReason::StopToken(_))));
        let expected = self.coming.get_mut(&seq).and_then(VecDeque::pop_front);
        match expected {
            Some(expected) if expected == seen => Ok(()),
            expected => Err(format!("sequence {seq}: {seen:?} came, {expected:?} was expected")),
        }
    }

    fn see_end(&mut self, event: SeqEvent, reason: FinishReason) -> Result<(), String> {
        let (seq, seen) = Seen::new(event);
        self.counts.ended_early += 1;
        match self.coming.get_mut(&seq) {
            Some(events) if !events.is_empty() && seen == Seen::Finished(reason) => {
                events.clear();
                Ok(())
            }
            _ => Err(format!("sequence {seq}: {seen:?} came for one that had ended or not for {reason:?}")),
        }
    }

    fn count(&mut self, step: &Step) {
        let slot = |t: &&nvllm_core::Source<TokenId>| **t == nvllm_core::Source::Slot;
        self.counts.from_slot += step.seqs.iter().flat_map(|s| &s.tokens).filter(slot).count();
        let chunk = |s: &&nvllm_core::SeqStep| s.tokens.len() > 1 && !s.outputs.iter().any(|o| o.sample);
        self.counts.chunked += step.seqs.iter().filter(chunk).count();
    }
}

fn random_config(rng: &mut Rng) -> SchedConfig {
    let context = rng.range(4..=40);
    SchedConfig {
        step_tokens: rng.range(1..=12),
        step_outputs: rng.range(1..=8),
        seqs: rng.range(1..=6),
        context,
        max_positions: context + rng.below(6),
        block_len: rng.range(1..=5),
        num_blocks: (0..rng.range(1..=2)).map(|_| rng.range(2..=30)).collect(),
        max_in_flight: rng.range(1..=3),
    }
}

fn random_sequence(rng: &mut Rng, config: &SchedConfig) -> NewSequence {
    let prompt_len = if rng.one_in(20) { rng.below(60) } else { rng.range(1..=config.context.min(16)) };
    let prompt: Vec<TokenId> = (0..prompt_len).map(|_| TokenId(rng.below(VOCAB as usize) as u32)).collect();
    let stop_tokens = (0..rng.below(3)).map(|_| TokenId(rng.below(VOCAB as usize) as u32)).collect();
    let sampling = SamplingParams { seed: rng.below(1000) as u64, stop_tokens, ..SamplingParams::default() };
    let positions = |rng: &mut Rng| (0..prompt_len).map(|_| rng.below(config.context) as u32).collect();
    NewSequence {
        prompt: prompt.into(),
        sampling: Arc::new(sampling),
        max_tokens: if rng.one_in(8) { None } else { Some(rng.below(16)) },
        logprobs: rng.one_in(4).then(|| rng.below(3) as u16),
        prompt_logprobs: rng.one_in(4).then(|| rng.below(3) as u16),
        logits: rng.one_in(4),
        priority: rng.below(3) as i32 - 1,
        positions: if rng.one_in(6) { Some(positions(rng)) } else { None },
    }
}

/// Also says that the walks meet everything that they are there for.
#[test]
fn sequences_do_in_any_company_what_they_do_alone() {
    let mut total = Counts::default();
    for seed in 0..4000 {
        let (_, result) = Walk::run(seed, None);
        total += result.unwrap_or_else(|e| panic!("{e}"));
    }
    let Counts { sequences, refused, steps, failed, from_slot, chunked, queued, stopped, ended_early } =
        total;
    let counts = [sequences, refused, steps, failed, from_slot, chunked, queued, stopped, ended_early];
    assert!(counts.iter().all(|n| *n > 1000), "the walks miss something: {total:?}");
}
