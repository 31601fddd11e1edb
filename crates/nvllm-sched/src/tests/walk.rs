//! Random walks: any interleaving of add, abort, finish, expire, plan, commit, failed steps and
//! resets of the prefix cache, with all invariants checked after every call and every event
//! compared with what the sequence would do alone: preemption, reused prefixes, shared blocks and
//! windows must not show.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nvllm_core::{EntryId, SamplingParams, SeqId, SlotId, Source, Step, StepId, StepOutput, TokenId};

use super::executor::Executor;
use super::faults::Fault;
use super::model::{Rng, Seen, VOCAB, expected_events, expected_max_tokens};
use crate::sequence::{Phase, Sequence};
use crate::{FinishReason, GroupConfig, NewSequence, SchedConfig, Scheduler, SeqEvent, TenantId, Totals};

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
    /// Deadlines of those that live, and the time.
    deadlines: BTreeMap<SeqId, Duration>,
    now: Duration,
    /// What was asked for, to tell whose prefix a prefix is.
    news: BTreeMap<SeqId, NewSequence>,
    /// All tokens that a sequence has in the end.
    tokens: BTreeMap<SeqId, Vec<TokenId>>,
    /// Salts and tokens of all prefixes that may be in the cache.
    prefixes: HashSet<(Option<Arc<str>>, Vec<TokenId>)>,
    /// What the scheduler should have counted, preemptions aside.
    totals: Totals,
    /// Prompt tokens of each step in flight, and the prompt's length for each slot.
    prompt_tokens: BTreeMap<StepId, usize>,
    prompt_lens: BTreeMap<SlotId, usize>,
    /// The head of the queue that the last step passed over, and how many more may.
    head: Option<(SeqId, usize)>,
    /// The entry of the last step.
    pub(super) last_entry: Option<EntryId>,
    pub(super) counts: Counts,
}

/// What a walk came across, so that a test can say that the walks go everywhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    moves: usize,
    sequences: usize,
    refused: usize,
    steps: usize,
    failed: usize,
    from_slot: usize,
    chunked: usize,
    queued: usize,
    stopped: usize,
    ended_early: usize,
    expired: usize,
    preempted: usize,
    cached: usize,
    resumed_from_cache: usize,
    copied: usize,
    windowed: usize,
    forgotten: usize,
    masked: usize,
    passed_over: usize,
    pub(super) alternated: usize,
    pub(super) embedded: usize,
}

impl Counts {
    fn all(&mut self) -> [&mut usize; 21] {
        let Self { moves, sequences, refused, steps, failed, from_slot, chunked, queued, .. } = self;
        let Self { stopped, ended_early, expired, preempted, cached, resumed_from_cache, .. } = self;
        let Self { copied, windowed, forgotten, masked, passed_over, alternated, embedded, .. } = self;
        [
            moves,
            sequences,
            refused,
            steps,
            failed,
            from_slot,
            chunked,
            queued,
            stopped,
            ended_early,
            expired,
            preempted,
            cached,
            resumed_from_cache,
            copied,
            windowed,
            forgotten,
            masked,
            passed_over,
            alternated,
            embedded,
        ]
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, mut other: Self) {
        self.all().into_iter().zip(other.all()).for_each(|(sum, more)| *sum += *more);
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
            deadlines: BTreeMap::new(),
            now: Duration::ZERO,
            news: BTreeMap::new(),
            tokens: BTreeMap::new(),
            prefixes: HashSet::new(),
            totals: Totals::default(),
            prompt_tokens: BTreeMap::new(),
            prompt_lens: BTreeMap::new(),
            head: None,
            last_entry: None,
            counts: Counts::default(),
        };
        let result = walk.walk();
        (walk.planted, result.map(|()| walk.counts).map_err(|e| format!("{e}\nseed {seed}, {config:?}")))
    }

    fn walk(&mut self) -> Result<(), String> {
        for _ in 0..self.rng.range(10..=80) {
            match self.rng.below(19) {
                0..=3 => self.add()?,
                4..=9 => self.plan()?,
                10..=14 => self.commit()?,
                15 => self.end(FinishReason::Aborted)?,
                16 => self.expire()?,
                17 => self.reset_prefix_cache(),
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
                self.counts.preempted = self.sched.stats().totals.num_preemptions as usize;
                return match unfinished {
                    Some((seq, events)) => Err(format!("sequence {seq} is forgotten before {:?}", events[0])),
                    None if used > 0 => Err(format!("{used} blocks are used when idle")),
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
        self.counts.moves += 1;
        if let Some(fault) = self.fault.filter(|_| !self.planted) {
            self.planted = fault.in_state(&mut self.sched);
        }
        self.sched.check().map_err(|e| e.to_string())?;
        self.check_stats()
    }

    /// What metrics report is what has happened.
    fn check_stats(&self) -> Result<(), String> {
        let stats = self.sched.stats();
        let totals = Totals { num_preemptions: stats.totals.num_preemptions, ..self.totals };
        // Preempted sequences live on and are counted with the ending ones for a while.
        let live = self.coming.values().filter(|events| !events.is_empty()).count();
        let held = stats.num_waiting + stats.num_running;
        let groups = &self.sched.config().groups;
        let num_blocks: usize = groups.iter().map(|group| group.num_blocks - 1).sum();
        let right = stats.totals == totals
            && (held..=held + stats.num_ending).contains(&live)
            && stats.num_running <= self.sched.config().seqs
            && stats.num_in_flight == self.executor.num_submitted()
            && stats.total_blocks == num_blocks;
        if right { Ok(()) } else { Err(format!("{stats:?} with {live} living and {totals:?}")) }
    }

    /// Notes how many tokens of prompts a step computes.
    fn note_prompt_tokens(&mut self, step: &Step) {
        self.prompt_lens.extend(step.resets.iter().map(|reset| (reset.slot, reset.prompt.len())));
        let num_prompt = |seq: &nvllm_core::SeqStep| {
            let Source::Host(first) = seq.kv_start else { return 0 };
            self.prompt_lens[&seq.slot].saturating_sub(first as usize).min(seq.tokens.len())
        };
        let num = step.seqs.iter().map(num_prompt).sum();
        self.prompt_tokens.insert(step.id, num);
    }

    fn add(&mut self) -> Result<(), String> {
        let new = random_sequence(&mut self.rng, self.sched.config(), self.now);
        let n = if self.rng.one_in(6) { self.rng.below(4) } else { 1 };
        let possible = (1..=self.sched.config().seqs).contains(&n)
            && new.tenant.index() < self.sched.config().tenant_weights.len();
        let expected = expected_max_tokens(&new, self.sched.config()).filter(|_| possible);
        let added = match n {
            1 => self.sched.add(new.clone()).map(|seq| vec![seq]),
            n => self.sched.add_choices(&new, n),
        };
        match (added, expected) {
            (Ok(seqs), Some(max_tokens)) if seqs.len() == n => {
                for (choice, seq) in (0..).zip(seqs) {
                    self.counts.sequences += 1;
                    let events = expected_events(&new, choice, max_tokens);
                    let sampled = events.iter().filter_map(|seen| match seen {
                        Seen::Row { token, .. } => *token,
                        Seen::Finished(_) => None,
                    });
                    self.tokens.insert(seq, new.prompt.iter().copied().chain(sampled).collect());
                    self.coming.insert(seq, events.into());
                    self.deadlines.extend(new.deadline.map(|at| (seq, at)));
                    self.news.insert(seq, new.clone());
                    self.note_prefixes(seq);
                }
            }
            (Err(_), None) => self.counts.refused += 1,
            (got, expected) => return Err(format!("add gave {got:?}, expected {expected:?} for {new:?}")),
        }
        Ok(())
    }

    /// All that may be found in the cache once this sequence has run.
    fn note_prefixes(&mut self, seq: SeqId) {
        let (new, tokens) = (&self.news[&seq], &self.tokens[&seq]);
        if new.positions.is_none() {
            let prefixes = (1..=tokens.len()).map(|len| (new.cache_salt.clone(), tokens[..len].to_vec()));
            self.prefixes.extend(prefixes);
        }
    }

    /// From now on only those leave prefixes that compute all of their tokens anew.
    fn reset_prefix_cache(&mut self) {
        self.sched.reset_prefix_cache();
        self.counts.forgotten += self.prefixes.len();
        self.prefixes.clear();
        let waiting = self.sched.seqs.iter().map(|(_, seq)| seq).filter(|seq| seq.allocation.is_none());
        let waiting: Vec<SeqId> = waiting.map(|seq| seq.id).collect();
        waiting.into_iter().for_each(|seq| self.note_prefixes(seq));
    }

    /// Whoever is admitted has a slot of its own, and has got nothing from others that is not its
    /// prefix under its salt.
    fn check_admitted(&mut self, step: &Step) -> Result<(), String> {
        let admitted = self.sched.admitted();
        if admitted.len() != step.resets.len() {
            return Err(format!("{admitted:?} were admitted with {} slots", step.resets.len()));
        }
        for (admitted, reset) in admitted.iter().zip(&step.resets) {
            if self.admitted.insert(admitted.seq) == admitted.resumed {
                return Err(format!("{admitted:?} for the first time or not"));
            }
            let tokens: Vec<TokenId> = reset.prompt.iter().chain(reset.output.iter()).copied().collect();
            let cached = tokens.get(..admitted.cached_tokens).filter(|cached| cached.len() < tokens.len());
            let Some(cached) = cached else {
                return Err(format!("{admitted:?} has nothing left of {} tokens", tokens.len()));
            };
            let new = &self.news[&admitted.seq];
            let is_shared = admitted.cached_tokens == reset.prompt.len() - 1;
            if !cached.is_empty() && !is_shared && !self.sched.config().prefix_cache {
                return Err(format!("{admitted:?} although prefixes are not kept"));
            }
            let own = new.positions.is_some();
            let found = own || self.prefixes.contains(&(new.cache_salt.clone(), cached.to_vec()));
            if !cached.is_empty() && !found {
                return Err(format!("{admitted:?} got a prefix that is not its own"));
            }
            if !admitted.resumed {
                self.totals.num_queried_tokens += reset.prompt.len() as u64;
                self.totals.num_cached_tokens += cached.len() as u64;
            }
            self.counts.cached += usize::from(!cached.is_empty() && !admitted.resumed);
            self.counts.resumed_from_cache += usize::from(!cached.is_empty() && admitted.resumed);
        }
        let resumed = self.sched.admitted().iter().filter(|admitted| admitted.resumed);
        let resumed: Vec<SeqId> = resumed.map(|admitted| admitted.seq).collect();
        resumed.into_iter().for_each(|seq| self.note_prefixes(seq));
        Ok(())
    }

    /// Who was admitted first of all overtook nobody of its tenant and nobody more urgent.
    fn check_order(&self) -> Result<(), String> {
        let waits = |seq: &&Sequence| seq.phase == Phase::Waiting && !self.admitted.contains(&seq.id);
        let waiting: Vec<_> = self.sched.seqs.iter().map(|(_, seq)| seq).filter(waits).collect();
        for admitted in self.sched.admitted().iter().filter(|admitted| !admitted.resumed) {
            let new = &self.news[&admitted.seq];
            let is_overtaken = |seq: &&&Sequence| {
                let earlier = seq.new.tenant == new.tenant && seq.id < admitted.seq;
                seq.new.priority < new.priority || seq.new.priority == new.priority && earlier
            };
            if let Some(overtaken) = waiting.iter().find(is_overtaken) {
                return Err(format!("sequence {} overtakes {}", admitted.seq, overtaken.id));
            }
        }
        Ok(())
    }

    /// The head of the queue: a copy is asked, as looking at it hands out credit.
    fn head(&self) -> Option<SeqId> {
        self.sched.queue.clone().head().map(|(_, seq)| seq)
    }

    fn running(&self) -> Vec<SeqId> {
        self.sched.running.iter().map(|key| self.sched.seqs[*key].id).collect()
    }

    /// The head of the queue before a step was planned is not passed over too often; `running` ran
    /// before that.
    ///
    /// How long it waits is not bounded by a number of plans, as among equals nobody who runs is
    /// stopped for it, but by the work of those who run. While it is the head nobody else is
    /// admitted, so they become no more, and each step computes a token of theirs at least: there
    /// are no more steps than they have tokens left. When they have none they are about to end, and
    /// it is admitted next. Counting begins anew with one that is preempted and resumed within one
    /// plan, as it may have tokens to compute again; whoever it was preempted for got on.
    ///
    /// Who is behind the head comes to be it: those of its tenant before it do not get more, the
    /// more urgent and the preempted go first, and other tenants get their share only, which the
    /// tests of the queue bound.
    fn check_passed_over(&mut self, head: Option<SeqId>, running: &[SeqId]) -> Result<(), String> {
        let before = self.head.take();
        let Some(head) = head.filter(|head| Some(*head) == self.head()) else { return Ok(()) };
        if let Some(admitted) = self.sched.admitted().iter().find(|a| !running.contains(&a.seq)) {
            return Err(format!("sequence {} overtakes the head of the queue, {head}", admitted.seq));
        }
        self.counts.passed_over += 1;
        let is_same = |before: &(SeqId, usize)| before.0 == head && self.sched.admitted().is_empty();
        let steps_left = match before.filter(is_same) {
            Some((_, 0)) => return Err(format!("sequence {head} is passed over once too often")),
            Some((_, steps_left)) => steps_left - 1,
            None => {
                let running = self.sched.running.iter().map(|key| &self.sched.seqs[*key]);
                running.map(|seq| seq.max_kv_len() - seq.computed).sum()
            }
        };
        self.head = Some((head, steps_left));
        Ok(())
    }

    fn plan(&mut self) -> Result<(), String> {
        let (head, running) = (self.head(), self.running());
        let Some(mut step) = self.sched.plan() else { return Ok(()) };
        self.check_admitted(&step)?;
        self.check_masks(&step)?;
        self.check_order()?;
        self.check_passed_over(head, &running)?;
        self.check_entry(&step, &running)?;
        self.note_prompt_tokens(&step);
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
            self.executor.lose();
            return self.fail(id);
        }
        let masked = self.check_masked_rows(id, &output)?;
        if let Some(fault) = self.fault.filter(|_| !self.planted) {
            self.planted = fault.in_output(&mut output);
        }
        let mut events = self.sched.commit(id, output).map_err(|e| e.to_string())?;
        let tokens = events.iter().filter(|event| matches!(event, SeqEvent::Token { .. }));
        if let Some(event) = tokens.clone().find(|e| masked.contains(&e.seq()) != self.news[&e.seq()].masked)
        {
            return Err(format!("sequence {} is masked or is not to be", event.seq()));
        }
        self.totals.num_steps += 1;
        self.totals.num_prompt_tokens += self.prompt_tokens[&id] as u64;
        if let Some(fault) = self.fault.filter(|_| !self.planted) {
            self.planted = fault.in_events(&mut events);
        }
        events.into_iter().try_for_each(|event| self.see(event))
    }

    /// The scheduler can say whose rows of a new step await masks.
    fn check_masks(&mut self, step: &Step) -> Result<(), String> {
        let awaits = step.seqs.iter().flat_map(|seq| &seq.outputs).map(|row| row.awaits_mask);
        let awaits = awaits.enumerate().filter_map(|(row, awaits)| awaits.then_some(row));
        if !awaits.eq(self.sched.masked_rows(step.id).map(|masked| masked.row)) {
            return Err(format!("step {} awaits other masks than are said", step.id));
        }
        self.counts.masked += self.sched.masked_rows(step.id).count();
        Ok(())
    }

    /// The masks of the oldest step are for the next tokens of exactly the masked sequences.
    fn check_masked_rows(&self, step: StepId, output: &StepOutput) -> Result<BTreeSet<SeqId>, String> {
        let is_token = |seen: &&Seen| matches!(seen, Seen::Row { token: Some(_), .. });
        for masked in self.sched.masked_rows(step) {
            let sampled = &self.tokens[&masked.seq][self.news[&masked.seq].prompt.len()..];
            let seen = sampled.len() - self.coming[&masked.seq].iter().filter(is_token).count();
            let next = output.rows.get(masked.row).and_then(|row| row.token);
            if masked.output != &sampled[..seen] || next.is_none() || next != sampled.get(seen).copied() {
                return Err(format!("step {step}: {masked:?}, with {sampled:?} to come and {next:?} next"));
            }
        }
        Ok(self.sched.masked_rows(step).map(|masked| masked.seq).collect())
    }

    fn fail(&mut self, step: StepId) -> Result<(), String> {
        for event in self.sched.fail(step).map_err(|e| e.to_string())? {
            self.see_end(event, FinishReason::Failed)?;
        }
        Ok(())
    }

    /// Lets time pass: exactly those end whose deadline has come.
    fn expire(&mut self) -> Result<(), String> {
        self.now += Duration::from_millis(self.rng.below(40) as u64);
        for event in self.sched.expire(self.now) {
            let due = self.deadlines.get(&event.seq()).is_some_and(|at| *at <= self.now);
            if !due {
                return Err(format!("sequence {} ends before its deadline", event.seq()));
            }
            self.counts.expired += 1;
            self.see_end(event, FinishReason::Deadline)?;
        }
        let late = |(seq, at): &(&SeqId, &Duration)| **at <= self.now && !self.coming[seq].is_empty();
        match self.deadlines.iter().find(late) {
            Some((seq, at)) => Err(format!("sequence {seq} lives at {:?}, after {at:?}", self.now)),
            None => Ok(()),
        }
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
        self.totals.num_output_tokens += u64::from(matches!(event, SeqEvent::Token { .. }));
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
        let slot = |t: &&Source<TokenId>| **t == Source::Slot;
        self.counts.from_slot += step.seqs.iter().flat_map(|s| &s.tokens).filter(slot).count();
        let chunk = |s: &&nvllm_core::SeqStep| s.tokens.len() > 1 && !s.outputs.iter().any(|o| o.sample);
        self.counts.chunked += step.seqs.iter().filter(chunk).count();
        self.counts.copied += step.copies.len();
        let null = |table: &&Arc<[nvllm_core::BlockId]>| table.contains(&nvllm_core::BlockId::NULL);
        self.counts.windowed += step.seqs.iter().flat_map(|s| &s.block_tables).filter(null).count();
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
        groups: (0..rng.range(1..=2)).map(|group| random_group(rng, group)).collect(),
        max_in_flight: rng.range(1..=3),
        prefix_cache: !rng.one_in(8),
        tenant_weights: (0..rng.range(1..=3)).map(|_| rng.range(1..=4) as u32).collect(),
    }
}

/// The executor takes the tokens of a sequence from the first group, which has no window.
fn random_group(rng: &mut Rng, group: usize) -> GroupConfig {
    let window = (group > 0 && rng.one_in(2)).then(|| rng.range(1..=9));
    GroupConfig { num_blocks: rng.range(2..=30), window }
}

/// Prompts begin alike, so that there are prefixes to be found.
fn random_sequence(rng: &mut Rng, config: &SchedConfig, now: Duration) -> NewSequence {
    let prompt_len = if rng.one_in(20) { rng.below(60) } else { rng.range(1..=config.context.min(16)) };
    let (family, own) = (rng.below(3), rng.below(prompt_len + 1));
    let token = |rng: &mut Rng, at: usize| if at < own { 7 * family + at } else { rng.below(VOCAB as usize) };
    let prompt: Vec<TokenId> =
        (0..prompt_len).map(|at| TokenId((token(rng, at) % VOCAB as usize) as u32)).collect();
    let stop_tokens = (0..rng.below(3)).map(|_| TokenId(rng.below(VOCAB as usize) as u32)).collect();
    let sampling = SamplingParams { seed: rng.below(1000) as u64, stop_tokens, ..SamplingParams::default() };
    let num_tenants = if rng.one_in(20) { 4 } else { config.tenant_weights.len() };
    let positions = |rng: &mut Rng| (0..prompt_len).map(|_| rng.below(config.context) as u32).collect();
    NewSequence {
        prompt: prompt.into(),
        entry: EntryId(u32::from(rng.one_in(3))),
        sampling: Arc::new(sampling),
        max_tokens: if rng.one_in(8) { None } else { Some(rng.below(16)) },
        logprobs: rng.one_in(4).then(|| rng.below(3) as u16),
        prompt_logprobs: rng.one_in(4).then(|| rng.below(3) as u16),
        logits: rng.one_in(4),
        last_row: rng.one_in(4),
        masked: rng.one_in(4),
        priority: rng.below(3) as i32 - 1,
        positions: if rng.one_in(6) { Some(positions(rng)) } else { None },
        tenant: TenantId(rng.below(num_tenants) as u32),
        cache_salt: rng.one_in(4).then(|| "a".into()),
        deadline: rng.one_in(6).then(|| now + Duration::from_millis(rng.below(200) as u64)),
    }
}

/// Also says that the walks meet everything that they are there for.
#[test]
fn sequences_do_in_any_company_what_they_do_alone() {
    let mut total = Counts::default();
    for seed in 0..NUM_WALKS {
        let (_, result) = Walk::run(seed, None);
        total += result.unwrap_or_else(|e| panic!("{e}"));
    }
    assert!(total.moves > 1_000_000, "{} moves", total.moves);
    assert!(total.all().iter().all(|n| **n > 1000), "the walks miss something: {total:?}");
}

/// More than a million moves.
const NUM_WALKS: u64 = 12_000;
