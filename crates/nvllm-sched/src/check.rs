//! Every invariant, in one place. Tests call this after every call; a debug build of an engine may.

use std::collections::{BTreeMap, BTreeSet};

use nvllm_core::{BlockId, SeqId};

use crate::sequence::Sequence;
use crate::{Result, SchedError, Scheduler};

impl Scheduler {
    /// Whether all invariants hold; errors with the first that does not.
    ///
    /// Costs time proportional to slots, blocks and sequences.
    pub fn check(&self) -> Result<()> {
        self.check_queues()?;
        self.check_steps()?;
        for (id, seq) in &self.seqs {
            self.check_progress(seq)
                .map_err(|problem| SchedError::broken(format!("sequence {id} {problem}")))?;
        }
        self.check_slots()?;
        self.check_blocks()
    }

    /// Each sequence is in exactly one place: waiting, running, or finished and pinned.
    fn check_queues(&self) -> Result<()> {
        let mut places: BTreeMap<SeqId, usize> = BTreeMap::new();
        let ending = self.seqs.iter().filter(|(_, s)| s.finished.is_some()).map(|(id, _)| *id);
        let waiting = self.waiting.iter().map(|(_, id)| *id);
        waiting
            .chain(self.running.iter().copied())
            .chain(ending)
            .for_each(|id| *places.entry(id).or_default() += 1);
        if let Some((id, n)) = places.iter().find(|(_, n)| **n > 1) {
            return broken(format!("sequence {id} is in {n} of the places waiting, running and ending"));
        }
        if let Some(id) = places.keys().find(|id| !self.seqs.contains_key(id)) {
            return broken(format!("sequence {id} is queued and does not exist"));
        }
        if let Some(id) = self.seqs.keys().find(|id| !places.contains_key(id)) {
            return broken(format!("sequence {id} is neither waiting, running nor ending"));
        }
        if let Some(id) = self.running.iter().find(|id| self.seqs[id].held.is_none()) {
            return broken(format!("sequence {id} runs and holds no slot"));
        }
        match self.waiting.iter().find(|(_, id)| self.seqs[id].held.is_some()) {
            Some((_, id)) => broken(format!("sequence {id} waits and holds a slot")),
            None => Ok(()),
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
        let mut steps: BTreeMap<SeqId, usize> = BTreeMap::new();
        let mut samples: BTreeMap<SeqId, usize> = BTreeMap::new();
        for part in self.in_flight.iter().flat_map(|f| &f.parts) {
            *steps.entry(part.seq).or_default() += 1;
            *samples.entry(part.seq).or_default() += part.rows.iter().filter(|row| row.sample).count();
        }
        if let Some(id) = steps.keys().find(|id| !self.seqs.contains_key(id)) {
            return broken(format!("sequence {id} was forgotten with a step in flight"));
        }
        for (id, seq) in &self.seqs {
            let (in_flight, expected) =
                (steps.get(id).copied().unwrap_or(0), samples.get(id).copied().unwrap_or(0));
            if seq.in_flight != in_flight {
                return broken(format!(
                    "sequence {id} is in {in_flight} steps in flight and counts {}",
                    seq.in_flight
                ));
            }
            if seq.finished.is_some() && in_flight == 0 {
                return broken(format!("sequence {id} has ended, is in no step, and is not forgotten"));
            }
            // A finished sequence has discarded what is on its way.
            let sampled = seq.output.len() + expected;
            if seq.finished.is_none() && seq.num_sampled != sampled {
                return broken(format!(
                    "sequence {id} counts {} samples; {sampled} were made",
                    seq.num_sampled
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
        if seq.num_sampled > 0 && computed + 1 != known {
            return Err(format!("has sampled with {computed} of {known} tokens computed"));
        }
        if seq.prompt_len() + seq.max_tokens > self.config.context {
            return Err(format!("may come to more than the context, {}", self.config.context));
        }
        let Some(held) = &seq.held else {
            return if computed == 0 {
                Ok(())
            } else {
                Err(format!("waits with {computed} tokens computed"))
            };
        };
        if held.tables.len() != self.pools.len() {
            return Err(format!("has {} block tables for {} KV groups", held.tables.len(), self.pools.len()));
        }
        let needed = self.config.blocks_for(computed);
        match held.tables.iter().find(|table| table.len() != needed) {
            Some(table) => {
                Err(format!("holds {} blocks for {computed} tokens, which take {needed}", table.len()))
            }
            None => Ok(()),
        }
    }

    /// Each slot is free or held by one sequence.
    fn check_slots(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let held = self.seqs.values().filter_map(|s| s.held.as_ref()).map(|held| held.slot);
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

    /// Each block is free or held as often as it is counted, none by two tables (nothing is shared
    /// yet), and what is promised exists.
    fn check_blocks(&self) -> Result<()> {
        for (group, pool) in self.pools.iter().enumerate() {
            let tables =
                || self.seqs.values().filter_map(|s| s.held.as_ref()).map(|held| &*held.tables[group]);
            pool.check(tables())
                .map_err(|problem| SchedError::broken(format!("KV group {group}: {problem}")))?;
            let mut owned: BTreeSet<BlockId> = BTreeSet::new();
            if let Some(block) = tables().flatten().find(|block| !owned.insert(**block)) {
                return broken(format!("KV group {group}: block {block} is in two places of block tables"));
            }
            let (promised, free) = (self.promised(group), pool.num_free());
            if promised > free {
                return broken(format!(
                    "KV group {group}: {promised} blocks are promised and {free} are free"
                ));
            }
            if self.seqs.is_empty() && pool.num_used() > 0 {
                return broken(format!("KV group {group}: {} blocks are held by nobody", pool.num_used()));
            }
        }
        Ok(())
    }
}

fn broken(problem: String) -> Result<()> {
    Err(SchedError::broken(problem))
}
