//! The logical side of one KV group: which physical blocks are free, how often the others are held,
//! and which can be found again by what they hold.
//!
//! Block 0 is null and never handed out. A block that nobody holds is free, and keeps its contents
//! until it is handed out: first those that hold nothing that can be found, then the one that has
//! been free longest.

use nvllm_core::{BlockId, InlineVec};

use crate::free_list::FreeList;
use crate::prefix::{BlockHash, PrefixCache};

/// The blocks of one KV group.
#[derive(Clone, Debug)]
pub(crate) struct BlockPool {
    /// How many block tables hold each block; index 0 stays 0.
    refs: Vec<u32>,
    free: FreeList,
    cache: PrefixCache,
}

impl BlockPool {
    /// `num_blocks` blocks, the null block included, all others free.
    pub(crate) fn new(num_blocks: usize) -> Self {
        Self {
            refs: vec![0; num_blocks],
            free: FreeList::new(num_blocks),
            cache: PrefixCache::new(num_blocks),
        }
    }

    /// Blocks that can be held: all but the null block.
    pub(crate) fn num_total(&self) -> usize {
        self.refs.len() - 1
    }

    /// Blocks that nobody holds.
    pub(crate) const fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that somebody holds.
    pub(crate) fn num_used(&self) -> usize {
        self.num_total() - self.num_free()
    }

    /// How many hold the block.
    pub(crate) fn num_holders(&self, block: BlockId) -> u32 {
        self.refs[block.index()]
    }

    /// Takes `n` blocks, each held once, or none if fewer are free. What they held can no longer be
    /// found.
    pub(crate) fn alloc(&mut self, n: usize) -> Option<InlineVec<BlockId>> {
        if n > self.free.len() {
            return None;
        }
        let blocks: InlineVec<BlockId> = (0..n).map_while(|_| self.free.pop_front()).collect();
        for block in &blocks {
            self.refs[block.index()] = 1;
            self.cache.forget(*block);
        }
        Some(blocks)
    }

    /// Takes one more hold of a block, which may be free.
    pub(crate) fn hold(&mut self, block: BlockId) {
        self.free.remove(block);
        self.refs[block.index()] += 1;
    }

    /// Gives one hold of each block back, the last of a table first: the head of a prefix is worth
    /// keeping longest. Null blocks are passed over.
    pub(crate) fn release(&mut self, blocks: &[BlockId]) {
        for &block in blocks.iter().rev().filter(|block| **block != BlockId::NULL) {
            let refs = &mut self.refs[block.index()];
            debug_assert!(*refs > 0, "block {block} is released and nobody holds it");
            *refs = refs.saturating_sub(1);
            if *refs > 0 {
                continue;
            }
            match self.cache.hash_of(block) {
                Some(_) => self.free.push_back(block),
                None => self.free.push_front(block),
            }
        }
    }

    /// Lets a full block be found by the hash of what it holds.
    pub(crate) fn publish(&mut self, block: BlockId, hash: BlockHash) {
        self.cache.publish(block, hash);
    }

    /// The block that holds what `hash` stands for, held or free.
    pub(crate) fn find(&self, hash: &BlockHash) -> Option<BlockId> {
        self.cache.find(hash)
    }

    /// Lets no block be found by what it holds now.
    pub(crate) fn forget_all(&mut self) {
        self.cache.clear();
    }

    pub(crate) fn hash_of(&self, block: BlockId) -> Option<&BlockHash> {
        self.cache.hash_of(block)
    }

    /// Compares counts and free list with `holds`, every hold of a block that there is.
    pub(crate) fn check(&self, holds: impl Iterator<Item = BlockId>) -> Result<(), String> {
        let mut held = vec![0_u32; self.refs.len()];
        for block in holds {
            match held.get_mut(block.index()) {
                Some(count) if block != BlockId::NULL => *count += 1,
                _ => return Err(format!("a table holds block {block}; 1 to {} exist", self.num_total())),
            }
        }
        if let Some(i) = (0..held.len()).find(|&i| held[i] != self.refs[i]) {
            return Err(format!(
                "block {i} is held by {} tables and counted {} times",
                held[i], self.refs[i]
            ));
        }
        if let Some(block) = self.free.iter().find(|block| held[block.index()] > 0) {
            return Err(format!("block {block} is on the free list and not free"));
        }
        if let Some(i) = (1..held.len()).find(|&i| held[i] == 0 && !self.free.contains(BlockId(i as u32))) {
            return Err(format!("block {i} leaked: nobody holds it and it is not free"));
        }
        self.cache.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> InlineVec<BlockId> {
        ids.iter().copied().map(BlockId).collect()
    }

    fn hash(salt: &str) -> BlockHash {
        BlockHash::root(Some(salt))
    }

    #[test]
    fn hands_out_all_but_null_once() {
        let mut pool = BlockPool::new(5);
        let (a, b) = (pool.alloc(1).unwrap(), pool.alloc(3).unwrap());
        assert_eq!((a.clone(), b.clone()), (ids(&[1]), ids(&[2, 3, 4])));
        assert_eq!((pool.alloc(1), pool.num_used(), pool.num_free()), (None, 4, 0));
        pool.check([a.as_slice(), b.as_slice()].concat().into_iter()).unwrap();
        pool.release(&b);
        pool.release(&a);
        pool.check(std::iter::empty()).unwrap();
        assert_eq!(pool.num_free(), 4);
    }

    #[test]
    fn a_refused_request_takes_nothing() {
        let mut pool = BlockPool::new(3);
        assert_eq!((pool.alloc(3), pool.num_free()), (None, 2));
    }

    #[test]
    fn what_can_be_found_is_overwritten_last_and_the_tail_before_the_head() {
        let mut pool = BlockPool::new(6);
        let table = pool.alloc(4).unwrap();
        pool.publish(table[0], hash("a"));
        pool.publish(table[1], hash("b"));
        pool.release(&table);
        // Blocks 3 and 4 hold nothing that can be found, and 5 was never used.
        assert_eq!(pool.alloc(3).unwrap(), ids(&[3, 4, 5]));
        assert_eq!(pool.find(&hash("a")), Some(BlockId(1)));
        assert_eq!(pool.alloc(1).unwrap(), ids(&[2]));
        assert_eq!((pool.find(&hash("b")), pool.find(&hash("a"))), (None, Some(BlockId(1))));
    }

    #[test]
    fn a_found_block_is_held_by_several_and_free_again_after_the_last() {
        let mut pool = BlockPool::new(3);
        let table = pool.alloc(1).unwrap();
        pool.publish(table[0], hash("a"));
        pool.hold(table[0]);
        assert_eq!(pool.num_holders(table[0]), 2);
        pool.release(&table);
        assert_eq!((pool.num_free(), pool.num_used()), (1, 1));
        pool.release(&table);
        assert_eq!(pool.num_free(), 2);
        pool.hold(table[0]);
        assert_eq!((pool.num_free(), pool.num_holders(table[0])), (1, 1));
        pool.check(table.into_iter()).unwrap();
    }

    #[test]
    fn the_null_block_is_nobodys() {
        let mut pool = BlockPool::new(3);
        pool.release(&ids(&[0]));
        pool.check(std::iter::empty()).unwrap();
        assert_eq!(pool.num_free(), 2);
    }

    #[test]
    fn check_names_the_block() {
        let mut pool = BlockPool::new(4);
        let table = pool.alloc(2).unwrap();
        let error = |pool: &BlockPool, holds: &[BlockId]| pool.check(holds.iter().copied()).unwrap_err();
        assert_eq!(error(&pool, &table[..1]), "block 2 is held by 0 tables and counted 1 times");
        let twice = [table.clone(), ids(&[1])].concat();
        assert_eq!(error(&pool, &twice), "block 1 is held by 2 tables and counted 1 times");
        assert_eq!(error(&pool, &ids(&[1, 2, 9])), "a table holds block 9; 1 to 3 exist");
        assert_eq!(error(&pool, &ids(&[1, 2, 0])), "a table holds block 0; 1 to 3 exist");
        pool.free.push_back(BlockId(1));
        assert_eq!(error(&pool, &table), "block 1 is on the free list and not free");
        pool.free.remove(BlockId(1));
        pool.free.remove(BlockId(3));
        assert_eq!(error(&pool, &table), "block 3 leaked: nobody holds it and it is not free");
    }
}
