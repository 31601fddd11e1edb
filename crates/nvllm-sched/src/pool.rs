//! The logical side of one KV group: which physical blocks are free, and how often the others are
//! held.
//!
//! Block 0 is null and never handed out. Blocks come back to the end of the free list and leave
//! from its front, so the block that has been free longest is overwritten first: the eviction order
//! that a prefix cache wants, which keeps the contents of a free block until somebody takes it.

use std::collections::VecDeque;

use nvllm_core::BlockId;

/// The blocks of one KV group.
#[derive(Clone, Debug)]
pub(crate) struct BlockPool {
    /// How many block tables hold each block; index 0 stays 0.
    refs: Vec<u32>,
    free: VecDeque<BlockId>,
}

impl BlockPool {
    /// `num_blocks` blocks, the null block included, all others free.
    pub(crate) fn new(num_blocks: usize) -> Self {
        Self { refs: vec![0; num_blocks], free: (1..num_blocks).map(|i| BlockId(i as u32)).collect() }
    }

    /// Blocks that can be held: all but the null block.
    pub(crate) fn num_total(&self) -> usize {
        self.refs.len() - 1
    }

    /// Blocks that nobody holds.
    pub(crate) fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that somebody holds.
    pub(crate) fn num_used(&self) -> usize {
        self.num_total() - self.num_free()
    }

    /// Takes `n` blocks, each held once, or none if fewer are free.
    pub(crate) fn alloc(&mut self, n: usize) -> Option<Vec<BlockId>> {
        if n > self.free.len() {
            return None;
        }
        let blocks: Vec<BlockId> = self.free.drain(..n).collect();
        blocks.iter().for_each(|b| self.refs[b.index()] = 1);
        Some(blocks)
    }

    /// Gives one hold of each block back, the last of a table first: the head of a prefix is worth
    /// keeping longest.
    pub(crate) fn release(&mut self, blocks: &[BlockId]) {
        for &block in blocks.iter().rev() {
            let refs = &mut self.refs[block.index()];
            debug_assert!(*refs > 0, "block {block} is released and nobody holds it");
            *refs = refs.saturating_sub(1);
            if *refs == 0 {
                self.free.push_back(block);
            }
        }
    }

    /// Compares counts and free list with `tables`, all block tables that exist.
    pub(crate) fn check<'a>(&self, tables: impl Iterator<Item = &'a [BlockId]>) -> Result<(), String> {
        let mut held = vec![0_u32; self.refs.len()];
        for &block in tables.flatten() {
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
        let mut listed = vec![false; self.refs.len()];
        for &block in &self.free {
            if block == BlockId::NULL || held.get(block.index()) != Some(&0) {
                return Err(format!("block {block} is on the free list and not free"));
            }
            if std::mem::replace(&mut listed[block.index()], true) {
                return Err(format!("block {block} is on the free list twice"));
            }
        }
        match (1..held.len()).find(|&i| held[i] == 0 && !listed[i]) {
            Some(i) => Err(format!("block {i} leaked: nobody holds it and it is not free")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> Vec<BlockId> {
        ids.iter().copied().map(BlockId).collect()
    }

    #[test]
    fn hands_out_all_but_null_once_and_reuses_the_longest_free_first() {
        let mut pool = BlockPool::new(5);
        let (a, b) = (pool.alloc(1).unwrap(), pool.alloc(3).unwrap());
        assert_eq!((a.clone(), b.clone()), (ids(&[1]), ids(&[2, 3, 4])));
        assert_eq!((pool.alloc(1), pool.num_used(), pool.num_free()), (None, 4, 0));
        pool.check([a.as_slice(), b.as_slice()].into_iter()).unwrap();
        pool.release(&b);
        pool.release(&a);
        pool.check(std::iter::empty()).unwrap();
        assert_eq!(pool.alloc(4).unwrap(), ids(&[4, 3, 2, 1]));
    }

    #[test]
    fn a_refused_request_takes_nothing() {
        let mut pool = BlockPool::new(3);
        assert_eq!((pool.alloc(3), pool.num_free()), (None, 2));
    }

    #[test]
    fn check_names_the_block() {
        let mut pool = BlockPool::new(4);
        let table = pool.alloc(2).unwrap();
        let error = |pool: &BlockPool, tables: &[&[BlockId]]| pool.check(tables.iter().copied()).unwrap_err();
        assert_eq!(error(&pool, &[&table[..1]]), "block 2 is held by 0 tables and counted 1 times");
        assert_eq!(error(&pool, &[&table, &table[..1]]), "block 1 is held by 2 tables and counted 1 times");
        assert_eq!(error(&pool, &[&table, &ids(&[9])]), "a table holds block 9; 1 to 3 exist");
        assert_eq!(error(&pool, &[&table, &ids(&[0])]), "a table holds block 0; 1 to 3 exist");
        pool.free.push_back(BlockId(3));
        assert_eq!(error(&pool, &[&table]), "block 3 is on the free list twice");
        pool.free = ids(&[1]).into();
        assert_eq!(error(&pool, &[&table]), "block 1 is on the free list and not free");
        pool.free.clear();
        assert_eq!(error(&pool, &[&table]), "block 3 leaked: nobody holds it and it is not free");
    }
}
