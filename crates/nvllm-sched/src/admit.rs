//! Who gets a slot, and what of its tokens is computed already.

use std::sync::Arc;

use nvllm_core::{BlockCopy, BlockId, InlineVec, SlotId, SlotReset};

use crate::plan::{Draft, chunk_len};
use crate::sequence::Key;
use crate::sequence::{Allocation, Phase};
use crate::{Admitted, GroupConfig, Scheduler};

/// Blocks whose contents a sequence takes over at its admission.
struct Reuse {
    /// Tokens that it need not compute.
    num_tokens: usize,
    /// For each KV group the blocks that it shares: those of the first tokens, null where no row
    /// sees them any more.
    shared: Vec<Vec<BlockId>>,
    /// For each KV group the block after those, which it needs a copy of, as it will write to it.
    partial: Option<Vec<BlockId>>,
}

/// The share of a group's blocks that admission leaves free for those who run already, so that an
/// admission is not undone by the next step.
const WATERMARK: f64 = 0.01;

impl Scheduler {
    /// The sequences that the last call of [`plan`](Self::plan) gave a slot.
    pub fn admitted(&self) -> &[Admitted] {
        &self.admitted
    }

    /// Admits waiting sequences of the step's entry while there are slots, blocks for the tokens
    /// that they know, and room in the step. Nobody overtakes the head of the queue. One that is
    /// more urgent than somebody who runs preempts it.
    pub(crate) fn admit(&mut self, draft: &mut Draft) {
        while draft.tokens_left > 0
            && let Some((_, id)) = self.queue.head()
        {
            let key = self.keys[&id];
            if self.seqs[key].new.entry != draft.step.entry {
                return;
            }
            // Who runs goes first: blocks that are missed are not given to others.
            let slot = self.free_slots.first().copied().filter(|_| !draft.starved);
            let Some((slot, reuse)) = slot.and_then(|slot| Some((slot, self.fitting(key)?))) else {
                return self.yield_to(key);
            };
            if chunk_len(&self.seqs[key], reuse.num_tokens, draft.tokens_left, draft.outputs_left) == 0 {
                return;
            }
            self.allocate(key, slot, &reuse, draft);
            let seq = &self.seqs[key];
            self.queue.charge(seq.place(), seq.known_len() - seq.computed);
            self.push(key, draft);
        }
    }

    /// Preempts one who is less urgent than the head of the queue, if giving up all of those lets
    /// it in and nobody is about to leave anyway. Among equals one who runs is never stopped for
    /// one who waits.
    fn yield_to(&mut self, key: Key) {
        let waiting = &self.seqs[key];
        let is_less_urgent = |key: &Key| self.seqs[*key].new.priority > waiting.new.priority;
        let last = self.running.iter().copied().filter(is_less_urgent).max_by_key(|k| self.seqs[*k].rank());
        let lets_in = |group: usize| {
            let pool = &self.pools[group];
            let (less_urgent, others): (Vec<Key>, Vec<Key>) =
                self.running.iter().partition(|k| is_less_urgent(k));
            let tables = less_urgent.iter().filter_map(|key| self.seqs[*key].allocation.as_ref());
            let given_up = tables.flat_map(|held| held.tables[group].iter().skip(held.given_back[group]));
            let given_up = given_up.filter(|block| pool.num_holders(**block) == 1).count();
            let needed = self.config.blocks_at_once(&self.config.groups[group], waiting.known_kv_len());
            let others: usize = others.iter().map(|key| self.lacking(*key, group)).sum();
            needed + others <= pool.num_free() + given_up
        };
        if let Some(last) = last
            && self.num_pinned == 0
            && (0..self.pools.len()).all(lets_in)
        {
            self.preempt(last);
        }
    }

    /// What a waiting sequence takes over, if there are free blocks for all other tokens that it
    /// knows, beside what the running ones need for theirs.
    fn fitting(&mut self, key: Key) -> Option<Reuse> {
        let spare: Vec<usize> = (0..self.pools.len()).map(|group| self.spare(key, group)).collect();
        // At least the last token is computed, in a block of its own.
        if spare.contains(&0) {
            return None;
        }
        let reuse = self.shared_with_leader(key).unwrap_or_else(|| self.cached_prefix(key));
        let known = self.seqs[key].known_kv_len();
        let needed = |group: usize| {
            let held = reuse.shared[group].iter().filter(|block| **block != BlockId::NULL);
            let taken = held.clone().filter(|block| self.pools[group].num_holders(**block) == 0).count();
            taken + self.config.blocks_at_once(&self.config.groups[group], known).saturating_sub(held.count())
        };
        let fits = (0..spare.len()).all(|group| needed(group) <= spare[group]);
        fits.then_some(reuse)
    }

    /// Free blocks of `group` that nobody who runs needs for the tokens that it knows, less the
    /// watermark: unless nobody runs, or somebody who would be preempted before the one who waits.
    fn spare(&self, key: Key, group: usize) -> usize {
        let pool = &self.pools[group];
        let priority = self.seqs[key].new.priority;
        let less_urgent = self.running.iter().any(|key| self.seqs[*key].new.priority > priority);
        let watermark = if less_urgent || self.running.is_empty() {
            0
        } else {
            (pool.num_total() as f64 * WATERMARK) as usize
        };
        pool.num_free().saturating_sub(self.outstanding(group) + watermark)
    }

    /// Free blocks of `group` that running sequences need for the tokens that they know.
    pub(crate) fn outstanding(&self, group: usize) -> usize {
        self.running.iter().map(|key| self.lacking(*key, group)).sum()
    }

    /// Blocks of `group` that a running sequence needs at once for the tokens that it knows, beside
    /// those that it holds.
    pub(crate) fn lacking(&self, key: Key, group: usize) -> usize {
        let seq = &self.seqs[key];
        let held = seq.allocation.as_ref().map_or(0, |a| a.tables[group].len() - a.given_back[group]);
        let needed = self.config.blocks_at_once(&self.config.groups[group], seq.known_kv_len());
        needed.saturating_sub(held)
    }

    /// The prompt's blocks of the choice that was computed first, if it runs and still has them.
    fn shared_with_leader(&self, key: Key) -> Option<Reuse> {
        let seq = &self.seqs[key];
        let leader = &self.seqs[*self.keys.get(&seq.leader?)?];
        let num_tokens = seq.prompt_len() - 1;
        // Its own tokens are not the leader's: after a preemption the cache has more.
        if leader.phase != Phase::Running || leader.committed <= num_tokens || !seq.output.is_empty() {
            return None;
        }
        if leader.is_private {
            return None;
        }
        let held = leader.allocation.as_ref()?;
        let num_shared = num_tokens / self.config.block_len;
        let is_partial = !num_tokens.is_multiple_of(self.config.block_len);
        let groups = || self.config.groups.iter().enumerate();
        let has_all = |(group, config): (usize, &GroupConfig)| {
            held.given_back[group] <= self.config.first_block_seen(config, num_tokens)
        };
        let shared = |(group, config): (usize, &GroupConfig)| {
            let mut table = held.tables[group][..num_shared].to_vec();
            let num_null = self.config.first_block_seen(config, num_tokens).min(num_shared);
            table[..num_null].fill(BlockId::NULL);
            table
        };
        groups().all(has_all).then(|| Reuse {
            num_tokens,
            shared: groups().map(shared).collect(),
            partial: is_partial.then(|| held.tables.iter().map(|table| table[num_shared]).collect()),
        })
    }

    /// The longest prefix of full blocks that the caches of all KV groups have.
    fn cached_prefix(&mut self, key: Key) -> Reuse {
        let Self { config, pools, seqs, .. } = self;
        let seq = &mut seqs[key];
        let num_most = seq.skippable() / config.block_len;
        let usable = config.prefix_cache && !pools.is_empty();
        let mut found: Vec<Vec<Option<BlockId>>> = vec![Vec::new(); pools.len()];
        let mut num = 0;
        while usable && num < num_most {
            seq.hash_blocks(num + 1, config.block_len);
            let hash = seq.hashes[num];
            let blocks = pools.iter().map(|pool| pool.find(&hash));
            found.iter_mut().zip(blocks).for_each(|(found, block)| found.push(block));
            let all = |group: usize| config.groups[group].window.is_some() || found[group][num].is_some();
            if !(0..pools.len()).all(all) {
                break;
            }
            num += 1;
        }
        // A group with a window needs the last blocks only.
        let seen =
            |group: usize, num: usize| config.first_block_seen(&config.groups[group], num * config.block_len);
        let has_all = |num: &usize| {
            (0..pools.len()).all(|group| found[group][seen(group, *num)..*num].iter().all(Option::is_some))
        };
        let num = (0..=num).rev().find(has_all).unwrap_or(0);
        let shared = |group: usize| {
            let blocks = found[group][..num].iter().enumerate();
            let first = seen(group, num);
            blocks.map(|(at, block)| block.filter(|_| at >= first).unwrap_or(BlockId::NULL)).collect()
        };
        Reuse {
            num_tokens: num * config.block_len,
            shared: (0..pools.len()).map(shared).collect(),
            partial: None,
        }
    }

    /// Gives a waiting sequence its slot and the blocks that it takes over.
    fn allocate(&mut self, key: Key, slot: SlotId, reuse: &Reuse, draft: &mut Draft) {
        let Self { config, pools, seqs, totals, .. } = self;
        let seq = &mut seqs[key];
        let resumed = seq.last_step.0 > 0;
        let (mut tables, mut given_back) = (InlineVec::new(), InlineVec::new());
        for (group, pool) in pools.iter_mut().enumerate() {
            let mut table = reuse.shared[group].clone();
            let num_null = table.iter().take_while(|block| **block == BlockId::NULL).count();
            table[num_null..].iter().for_each(|block| pool.hold(*block));
            if let Some(from) = reuse.partial.as_ref().map(|partial| partial[group])
                && let Some(&[to]) = pool.alloc(1).as_deref()
            {
                // Held until the step is committed: its owner may end before.
                pool.hold(from);
                draft.step.copies.push(BlockCopy { group, from, to });
                table.push(to);
            }
            tables.push(Arc::from(table));
            given_back.push(num_null);
        }
        seq.allocation = Some(Allocation { slot, tables, given_back });
        (seq.computed, seq.committed) = (reuse.num_tokens, reuse.num_tokens);
        seq.num_published = reuse.num_tokens / config.block_len;
        seq.phase = Phase::Running;
        draft.step.resets.push(SlotReset {
            slot,
            prompt: Arc::clone(&seq.new.prompt),
            output: seq.output.as_slice().into(),
            sampling: Arc::clone(&seq.new.sampling),
        });
        if !resumed {
            totals.num_queried_tokens += seq.prompt_len() as u64;
            totals.num_cached_tokens += reuse.num_tokens as u64;
        }
        self.queue.remove(seq.place(), seq.id);
        self.free_slots.remove(&slot);
        self.admitted.push(Admitted { seq: seq.id, cached_tokens: reuse.num_tokens, resumed });
        self.running.push(key);
    }
}
