//! Blocks for those who run: who has to give them up when there are none left.
//!
//! A sequence is preempted by recompute: it gives up its slot and its blocks, waits ahead of all
//! new ones of its priority, and computes its tokens again when it is admitted again, as far as the
//! prefix cache has not kept them. What it has sampled stays. The one added last among the least
//! urgent goes first, and nobody is preempted for one that would go before him: the first of
//! all always gets what it needs, so somebody always gets on.

use nvllm_core::BlockId;

use crate::Scheduler;
use crate::plan::Draft;
use crate::sequence::Key;
use crate::sequence::Phase;

impl Scheduler {
    /// How many of the next `len` tokens of a running sequence there are blocks for, after
    /// preempting others if there are none at all.
    pub(crate) fn make_room(&mut self, key: Key, len: usize, draft: &Draft) -> usize {
        loop {
            let room = self.room(key, len).min(len);
            if room > 0 || self.blocks_are_coming() {
                return room;
            }
            match self.victim(key, draft) {
                Some(victim) => self.preempt(victim),
                None => return 0,
            }
        }
    }

    /// Whether steps in flight pin blocks that are free once they are committed: those are waited
    /// for, and nobody is preempted meanwhile.
    fn blocks_are_coming(&self) -> bool {
        self.num_pinned > 0 || self.config.has_windows() && !self.in_flight.is_empty()
    }

    /// How many of the next `len` tokens, or more, a sequence can go on by with the blocks that it
    /// holds and those that it may take.
    fn room(&self, key: Key, len: usize) -> usize {
        let seq = &self.seqs[key];
        let Some(held) = &seq.allocation else { return 0 };
        let room = |group: usize| {
            let table_len = held.tables[group].len();
            let wanted = self.config.blocks_for(seq.computed + len).saturating_sub(table_len);
            (table_len + self.available(key, group, wanted)) * self.config.block_len - seq.computed
        };
        (0..self.pools.len()).map(room).min().unwrap_or(usize::MAX)
    }

    /// Free blocks of `group` that a running sequence may take if it wants `wanted`: all, but of
    /// those that its window will give back soon after, none that others need.
    pub(crate) fn available(&self, key: Key, group: usize, wanted: usize) -> usize {
        let num_free = self.pools[group].num_free();
        if self.config.groups[group].window.is_none() || num_free == 0 {
            return num_free;
        }
        let own = self.lacking(key, group);
        // So it is in decoding: no look at all the others for each.
        if wanted <= own {
            return num_free;
        }
        let others = self.outstanding(group) - own;
        num_free.min(own.max(num_free.saturating_sub(others)))
    }

    /// The last of those who run, if it ranks behind `key` and is not part of the step in the
    /// making, which would pin its blocks.
    fn victim(&self, key: Key, draft: &Draft) -> Option<Key> {
        let rank = |key: &Key| self.seqs[*key].rank();
        let idle = self.running.iter().copied().filter(|key| self.seqs[*key].last_step != draft.step.id);
        idle.max_by_key(rank).filter(|last| rank(last) > rank(&key))
    }

    /// Takes the slot and the blocks of a running sequence, at once or when its steps in flight are
    /// committed.
    pub(crate) fn preempt(&mut self, key: Key) {
        self.running.retain(|running| *running != key);
        self.seqs[key].phase = Phase::Preempted;
        self.num_pinned += 1;
        self.totals.num_preemptions += 1;
        self.settle(key);
    }

    /// Gives back the blocks that no row of a sequence from KV index `index` on sees.
    pub(crate) fn give_back(&mut self, key: Key, index: usize) {
        let Self { config, pools, seqs, .. } = self;
        let Some(held) = seqs[key].allocation.as_mut() else { return };
        for (group, pool) in pools.iter_mut().enumerate() {
            let num = config.first_block_seen(&config.groups[group], index);
            let given_back = held.given_back[group];
            if num > given_back {
                pool.release(&held.tables[group][given_back..num]);
                let null = std::iter::repeat_n(BlockId::NULL, num);
                let kept = held.tables[group][num..].iter().copied();
                held.tables[group] = null.chain(kept).collect();
                held.given_back[group] = num;
            }
        }
    }
}
