//! Every invariant, in one place. Tests call this after every call; a debug build of an engine may.

use std::collections::{BTreeMap, BTreeSet};

use nvllm_core::BlockId;

use crate::scheduler::{InFlight, Part};
use crate::sequence::Key;
use crate::sequence::{Allocation, Phase, Sequence};
use crate::{Result, SchedError, Scheduler};

impl Scheduler {
    /// Whether all invariants hold; errors with the first that does not.
    ///
    /// Costs time proportional to slots, blocks and sequences.
    pub fn check(&self) -> Result<()> {
        self.check_phases()?;
        self.check_steps()?;
        for (_, seq) in &self.seqs {
            self.check_progress(seq)
                .map_err(|problem| SchedError::broken(format!("sequence {} {problem}", seq.id)))?;
        }
        self.check_slots()?;
        self.check_blocks()
    }

    /// Each sequence is where its phase says, once, and holds what goes with it.
    fn check_phases(&self) -> Result<()> {
        let is = |phase: Phase| move |seq: &&Sequence| seq.phase == phase;
        let all = || self.seqs.iter().map(|(_, seq)| seq);
        let mut waiting: Vec<_> = all().filter(is(Phase::Waiting)).map(|seq| seq.id).collect();
        let mut queued: Vec<_> = self.queue.iter().collect();
        waiting.sort_unstable();
        queued.sort_unstable();
        if waiting != queued || queued.len() != self.queue.len() {
            return broken(format!("{waiting:?} wait and {queued:?} are queued"));
        }
        let mut running: Vec<Key> =
            self.seqs.iter().filter(|(_, seq)| seq.phase == Phase::Running).map(|(key, _)| key).collect();
        let mut turns = self.running.clone();
        running.sort_unstable();
        turns.sort_unstable();
        if running != turns {
            return broken(format!("{running:?} run and {turns:?} take turns"));
        }
        let mut followers: Vec<Key> = all().flat_map(|seq| seq.followers.clone()).collect();
        followers.sort_unstable();
        let following = self.seqs.iter().filter(|(_, seq)| seq.phase == Phase::Following);
        if !following.map(|(key, _)| key).eq(followers.iter().copied()) {
            return broken(format!("{followers:?} are followers, and others follow"));
        }
        let pinned = all().filter(|s| s.is_finished() || s.phase == Phase::Preempted);
        if pinned.clone().count() != self.num_pinned {
            return broken(format!(
                "{} sequences are pinned and counted {}",
                pinned.count(),
                self.num_pinned
            ));
        }
        if let Some(seq) = pinned.clone().find(|seq| seq.in_flight == 0) {
            return broken(format!("sequence {} has ended, is in no step, and is not forgotten", seq.id));
        }
        let holds = |seq: &&Sequence| seq.allocation.is_some();
        let should = |seq: &&Sequence| !matches!(seq.phase, Phase::Waiting | Phase::Following);
        if let Some(seq) = all().find(|seq| holds(seq) != should(seq)) {
            return broken(format!(
                "sequence {} is {:?} and should not hold what it holds",
                seq.id, seq.phase
            ));
        }
        let known = |(key, seq): (Key, &Sequence)| self.keys.get(&seq.id) == Some(&key);
        if self.keys.len() != self.seqs.len() || !self.seqs.iter().all(known) {
            return broken("sequences are not found by their ids".into());
        }
        let deadlines = all().filter(|seq| !seq.is_finished());
        let deadlines: BTreeSet<_> = deadlines.filter_map(|s| Some((s.new.deadline?, s.id))).collect();
        if deadlines == self.deadlines {
            Ok(())
        } else {
            broken("deadlines are not those of sequences".into())
        }
    }

    /// Steps in flight are in order, no more than allowed, and counted right in their sequences.
    fn check_steps(&self) -> Result<()> {
        if self.in_flight.len() > self.config.max_in_flight {
            let (n, max) = (self.in_flight.len(), self.config.max_in_flight);
            return broken(format!("{n} steps are in flight; {max} may be"));
        }
        let ids: Vec<_> = self.in_flight.iter().map(|f| f.id).chain([self.next_step]).collect();
        if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
            return broken(format!("steps in flight are out of order: {ids:?}"));
        }
        let mut steps: BTreeMap<Key, usize> = BTreeMap::new();
        let mut samples: BTreeMap<Key, usize> = BTreeMap::new();
        for flight in &self.in_flight {
            let mut rows = flight.rows.iter();
            for part in &flight.parts {
                let own = rows.by_ref().take(part.num_rows);
                *steps.entry(part.key).or_default() += 1;
                *samples.entry(part.key).or_default() += own.filter(|row| row.sample).count();
            }
            if rows.len() > 0 {
                return broken(format!("step {} has rows of no sequence", flight.id));
            }
        }
        if steps.keys().any(|key| !self.seqs.contains(*key)) {
            return broken("a sequence was forgotten with a step in flight".into());
        }
        let entry = |part: &Part| self.seqs[part.key].new.entry;
        let mixes =
            |flight: &&InFlight| flight.parts.windows(2).any(|pair| entry(&pair[0]) != entry(&pair[1]));
        if let Some(flight) = self.in_flight.iter().find(mixes) {
            return broken(format!("step {} has sequences of several entries", flight.id));
        }
        for (key, seq) in &self.seqs {
            let (in_flight, expected) =
                (steps.get(&key).copied().unwrap_or(0), samples.get(&key).copied().unwrap_or(0));
            if seq.in_flight != in_flight {
                return broken(format!(
                    "sequence {} is in {in_flight} steps in flight and counts {}",
                    seq.id, seq.in_flight
                ));
            }
            // A finished sequence has discarded what is on its way.
            let sampled = seq.output.len() + expected;
            if !seq.is_finished() && seq.num_sampled != sampled {
                return broken(format!(
                    "sequence {} counts {} samples; {sampled} were made",
                    seq.id, seq.num_sampled
                ));
            }
        }
        Ok(())
    }

    /// One sequence's numbers agree with each other and with its block tables.
    fn check_progress(&self, seq: &Sequence) -> Result<(), String> {
        let (known, computed) = (seq.known_len(), seq.computed);
        if computed > known || computed > seq.max_kv_len() {
            return Err(format!("has computed {computed} of {known} tokens, {} at most", seq.max_kv_len()));
        }
        if seq.num_sampled > seq.max_tokens || seq.output.len() > seq.num_sampled {
            let (output, max) = (seq.output.len(), seq.max_tokens);
            return Err(format!("has {output} of {} samples, {max} at most", seq.num_sampled));
        }
        // What was sampled before a preemption is computed anew; what is not yet committed was
        // sampled from the last of the known tokens.
        if seq.num_sampled > seq.output.len() && computed + 1 != known {
            return Err(format!("samples with {computed} of {known} tokens computed"));
        }
        // A row that samples makes one more token known; that of the last token ends the sequence.
        if seq.reported >= known {
            return Err(format!("has reported {} rows of {known}", seq.reported));
        }
        if seq.prompt_len() + seq.max_tokens > self.config.context {
            return Err(format!("may come to more than the context, {}", self.config.context));
        }
        match &seq.allocation {
            None if computed > 0 => Err(format!("waits with {computed} tokens computed")),
            None => Ok(()),
            Some(held) => self.check_tables(seq, held),
        }
    }

    /// A sequence's block tables cover what is computed, null exactly where blocks were given back,
    /// and hold what their hashes say.
    fn check_tables(&self, seq: &Sequence, held: &Allocation) -> Result<(), String> {
        let num_groups = self.pools.len();
        if held.tables.len() != num_groups || held.given_back.len() != num_groups {
            return Err(format!("has {} block tables for {num_groups} KV groups", held.tables.len()));
        }
        let needed = self.config.blocks_for(seq.computed);
        for (group, table) in held.tables.iter().enumerate() {
            if table.len() != needed {
                let (len, computed) = (table.len(), seq.computed);
                return Err(format!("holds {len} blocks for {computed} tokens, which take {needed}"));
            }
            let num_null = held.given_back[group];
            let seen = self.config.first_block_seen(&self.config.groups[group], seq.computed);
            let null = |(at, block): (usize, &BlockId)| (*block == BlockId::NULL) != (at < num_null);
            if num_null > seen || table.iter().enumerate().any(null) {
                return Err(format!(
                    "has blocks {table:?}, {num_null} given back of {seen} that no row sees"
                ));
            }
            // Only full blocks are shared: who else holds one does not see it change.
            let open = seq.computed / self.config.block_len;
            let copied =
                |b: &BlockId| self.in_flight.iter().flat_map(|f| &f.copied).any(|c| *c == (group, *b));
            let shared = |b: &&BlockId| self.pools[group].num_holders(**b) > 1 && !copied(b);
            if let Some(block) = table[open.min(table.len())..].iter().find(shared) {
                return Err(format!("writes to block {block}, which others hold"));
            }
            for (block, hash) in table.iter().zip(&seq.hashes) {
                if self.pools[group].hash_of(*block).is_some_and(|found| found != hash) {
                    return Err(format!("holds block {block}, which is found by another hash"));
                }
            }
        }
        if seq.num_published * self.config.block_len > seq.committed || seq.committed > seq.computed {
            let (published, committed) = (seq.num_published, seq.committed);
            let computed = seq.computed;
            return Err(format!("has published {published} blocks of {committed} of {computed} tokens"));
        }
        Ok(())
    }

    /// Each slot is free or held by one sequence.
    fn check_slots(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let held = self.seqs.iter().filter_map(|(_, s)| s.allocation.as_ref()).map(|held| held.slot);
        for slot in held.chain(self.free_slots.iter().copied()) {
            if slot.index() >= self.config.seqs || !seen.insert(slot) {
                return broken(format!("slot {slot} is held twice, or held and free, or does not exist"));
            }
        }
        match self.config.seqs - seen.len() {
            0 => Ok(()),
            leaked => broken(format!("{leaked} of {} slots leaked", self.config.seqs)),
        }
    }

    /// Each block is free or held as often as it is counted: by block tables, and by steps in
    /// flight that copy from it.
    fn check_blocks(&self) -> Result<()> {
        for (group, pool) in self.pools.iter().enumerate() {
            let tables = self.seqs.iter().filter_map(|(_, seq)| seq.allocation.as_ref());
            let tables = tables.flat_map(|held| held.tables[group].iter().skip(held.given_back[group]));
            let copied = self.in_flight.iter().flat_map(|flight| &flight.copied);
            let copied = copied.filter(|(of, _)| *of == group).map(|(_, block)| block);
            pool.check(tables.chain(copied).copied())
                .map_err(|problem| SchedError::broken(format!("KV group {group}: {problem}")))?;
        }
        Ok(())
    }
}

fn broken(problem: String) -> Result<()> {
    Err(SchedError::broken(problem))
}
