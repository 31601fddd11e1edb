//! Which full blocks hold the keys and values of which tokens.
//!
//! A block is found by a hash of its tokens and of all tokens before it, chained block by block
//! from a root that the cache salt decides. Equal hashes mean equal prefixes: a hash that two
//! prompts share would let one read the other's keys and values, so it is a cryptographic one, as
//! in vLLM. Keys and values depend on nothing else: position ids other than 0, 1, 2, .. are not
//! cached.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use nvllm_core::{BlockId, TokenId};
use sha2::{Digest, Sha256};

/// All that the keys and values of a full block depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockHash([u8; 32]);

impl BlockHash {
    /// What the first block of a prompt follows.
    pub(crate) fn root(salt: Option<&str>) -> Self {
        salt.map_or(Self([0; 32]), |salt| Self(Sha256::digest(salt).into()))
    }

    /// The hash of the block that follows this one and holds `tokens`.
    pub(crate) fn next(&self, tokens: impl Iterator<Item = TokenId>) -> Self {
        let mut hash = Sha256::new_with_prefix(self.0);
        // Updates cost by the call more than by the byte.
        let (mut bytes, mut len) = ([0; 128], 0);
        tokens.for_each(|token| {
            if len == bytes.len() {
                hash.update(bytes);
                len = 0;
            }
            bytes[len..len + 4].copy_from_slice(&token.0.to_le_bytes());
            len += 4;
        });
        hash.update(&bytes[..len]);
        Self(hash.finalize().into())
    }
}

/// The full blocks of one KV group that can be found again, held by sequences or free.
#[derive(Clone, Debug)]
pub(crate) struct PrefixCache {
    by_hash: HashMap<BlockHash, BlockId>,
    of_block: Vec<Option<BlockHash>>,
}

impl PrefixCache {
    pub(crate) fn new(num_blocks: usize) -> Self {
        Self { by_hash: HashMap::new(), of_block: vec![None; num_blocks] }
    }

    pub(crate) fn find(&self, hash: &BlockHash) -> Option<BlockId> {
        self.by_hash.get(hash).copied()
    }

    pub(crate) fn hash_of(&self, block: BlockId) -> Option<&BlockHash> {
        self.of_block[block.index()].as_ref()
    }

    /// Lets `block` be found by `hash`, unless another block is.
    pub(crate) fn publish(&mut self, block: BlockId, hash: BlockHash) {
        let own = &mut self.of_block[block.index()];
        if own.is_none()
            && let Entry::Vacant(entry) = self.by_hash.entry(hash)
        {
            entry.insert(block);
            *own = Some(hash);
        }
    }

    /// The contents of `block` are about to be overwritten.
    pub(crate) fn forget(&mut self, block: BlockId) {
        if let Some(hash) = self.of_block[block.index()].take() {
            self.by_hash.remove(&hash);
        }
    }

    /// Forgets what all blocks hold.
    pub(crate) fn clear(&mut self) {
        self.by_hash.clear();
        self.of_block.fill(None);
    }

    /// Whether both directions agree.
    pub(crate) fn check(&self) -> Result<(), String> {
        let listed = self.of_block.iter().flatten().count();
        let wrong = self.by_hash.iter().find(|(hash, block)| self.hash_of(**block) != Some(hash));
        match wrong {
            Some((_, block)) => Err(format!("block {block} is found by a hash that is not its own")),
            None if listed != self.by_hash.len() => {
                Err(format!("{listed} blocks have hashes and {} are found by one", self.by_hash.len()))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(tokens: &[u32]) -> impl Iterator<Item = TokenId> {
        tokens.iter().copied().map(TokenId)
    }

    #[test]
    fn a_hash_tells_tokens_their_order_what_is_before_them_and_the_salt() {
        let hashes = [
            BlockHash::root(None),
            BlockHash::root(Some("")),
            BlockHash::root(Some("a")),
            BlockHash::root(None).next(tokens(&[1, 2])),
            BlockHash::root(None).next(tokens(&[2, 1])),
            BlockHash::root(Some("a")).next(tokens(&[1, 2])),
            BlockHash::root(None).next(tokens(&[1])).next(tokens(&[2])),
            BlockHash::root(None).next(tokens(&[1 << 8, 2])),
        ];
        let different: std::collections::HashSet<_> = hashes.iter().collect();
        assert_eq!(different.len(), hashes.len());
        assert_eq!(hashes[3], BlockHash::root(None).next(tokens(&[1, 2])));
    }

    #[test]
    fn the_first_block_of_a_hash_is_found_until_it_is_forgotten() {
        let [a, b] = [1, 2].map(|token| BlockHash::root(None).next(tokens(&[token])));
        let mut cache = PrefixCache::new(4);
        cache.publish(BlockId(1), a);
        cache.publish(BlockId(2), a);
        cache.publish(BlockId(1), b);
        assert_eq!((cache.find(&a), cache.find(&b)), (Some(BlockId(1)), None));
        cache.forget(BlockId(2));
        cache.check().unwrap();
        assert_eq!(cache.find(&a), Some(BlockId(1)));
        cache.forget(BlockId(1));
        assert_eq!((cache.find(&a), cache.hash_of(BlockId(1))), (None, None));
        cache.check().unwrap();
        cache.publish(BlockId(2), b);
        cache.clear();
        assert_eq!((cache.find(&b), cache.hash_of(BlockId(2))), (None, None));
        cache.check().unwrap();
    }

    #[test]
    fn check_names_what_disagrees() {
        let a = BlockHash::root(Some("a"));
        let mut cache = PrefixCache::new(3);
        cache.publish(BlockId(1), a);
        cache.of_block[2] = Some(a);
        assert_eq!(cache.check().unwrap_err(), "2 blocks have hashes and 1 are found by one");
        cache.of_block[1] = None;
        assert_eq!(cache.check().unwrap_err(), "block 1 is found by a hash that is not its own");
    }
}
