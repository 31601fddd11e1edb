//! The free blocks of a pool, in the order in which they are handed out: a doubly linked list
//! through an array, so that a block can also be taken from its middle, where a prefix cache finds
//! it.

use nvllm_core::BlockId;

/// Neighbours of each block. Block 0, the null block, is never free: its entry is both ends.
#[derive(Clone, Debug)]
pub(crate) struct FreeList {
    links: Vec<Links>,
    len: usize,
}

/// A block that is not on the list is its own neighbour.
#[derive(Clone, Copy, Debug)]
struct Links {
    next: u32,
    prev: u32,
}

impl FreeList {
    /// Blocks 1 to `num_blocks - 1`, ascending.
    pub(crate) fn new(num_blocks: usize) -> Self {
        let alone = |i| Links { next: i as u32, prev: i as u32 };
        let mut list = Self { links: (0..num_blocks).map(alone).collect(), len: 0 };
        (1..num_blocks).for_each(|i| list.push_back(BlockId(i as u32)));
        list
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        block != BlockId::NULL && self.links[block.index()].next != block.0
    }

    /// The block that was put at the front last, or else has been here longest.
    pub(crate) fn pop_front(&mut self) -> Option<BlockId> {
        let first = BlockId(self.links[0].next);
        self.remove(first).then_some(first)
    }

    /// Puts a block that is not here at the end.
    pub(crate) fn push_back(&mut self, block: BlockId) {
        self.insert(self.links[0].prev, block);
    }

    /// Puts a block that is not here at the front.
    pub(crate) fn push_front(&mut self, block: BlockId) {
        self.insert(0, block);
    }

    /// Takes a block from wherever it is; whether it was here.
    pub(crate) fn remove(&mut self, block: BlockId) -> bool {
        if !self.contains(block) {
            return false;
        }
        let Links { next, prev } = self.links[block.index()];
        self.links[prev as usize].next = next;
        self.links[next as usize].prev = prev;
        self.links[block.index()] = Links { next: block.0, prev: block.0 };
        self.len -= 1;
        true
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = BlockId> {
        let next = |at: &u32| Some(self.links[*at as usize].next).filter(|next| *next != 0);
        std::iter::successors(next(&0), next).map(BlockId)
    }

    fn insert(&mut self, prev: u32, block: BlockId) {
        debug_assert!(block != BlockId::NULL && !self.contains(block), "block {block} is free already");
        let next = self.links[prev as usize].next;
        self.links[block.index()] = Links { next, prev };
        self.links[prev as usize].next = block.0;
        self.links[next as usize].prev = block.0;
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &FreeList) -> Vec<u32> {
        assert_eq!(list.iter().count(), list.len());
        list.iter().map(|block| block.0).collect()
    }

    #[test]
    fn blocks_leave_from_the_front_and_from_the_middle() {
        let mut list = FreeList::new(6);
        assert_eq!(ids(&list), [1, 2, 3, 4, 5]);
        assert!(list.remove(BlockId(3)) && !list.remove(BlockId(3)) && !list.contains(BlockId(3)));
        assert!(!list.remove(BlockId::NULL) && !list.contains(BlockId::NULL));
        assert_eq!((list.pop_front(), ids(&list)), (Some(BlockId(1)), vec![2, 4, 5]));
        list.push_back(BlockId(1));
        list.push_front(BlockId(3));
        assert_eq!(ids(&list), [3, 2, 4, 5, 1]);
        assert!(list.remove(BlockId(1)) && list.remove(BlockId(4)));
        assert_eq!(ids(&list), [3, 2, 5]);
        let all: Vec<_> = std::iter::from_fn(|| list.pop_front()).map(|block| block.0).collect();
        assert_eq!((all, list.len(), list.pop_front()), (vec![3, 2, 5], 0, None));
        list.push_front(BlockId(4));
        assert_eq!(ids(&list), [4]);
    }
}
