//! State that outlives a step: the paged KV cache.

use crate::limits::{MAX_BYTES, MAX_EXTENT};
use crate::{BlockId, CoreError, DType, HostTensor, Limits, Result};

/// A model's declaration of paged key/value state: one group of layers with equal geometry. Groups
/// are numbered in the order of their declarations; sequences carry one block table a group.
///
/// Source: Kwon et al. 2023, "Efficient Memory Management for LLM Serving with `PagedAttention`".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedKv {
    /// Layers that store keys and values here.
    pub num_layers: usize,
    /// Key/value heads.
    pub num_heads: usize,
    /// Columns of one head.
    pub head_dim: usize,
    /// Keys older than this many positions are never read, in any layer of the group.
    pub window: Option<usize>,
}

/// One layer's part of a KV group: what an attention op names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvLayer {
    /// The KV group.
    pub group: usize,
    /// The layer within the group.
    pub layer: usize,
}

impl std::fmt::Display for KvLayer {
    /// `kv[3]`, and `kv1[3]` in another group than the first.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.group {
            0 => write!(f, "kv[{}]", self.layer),
            group => write!(f, "kv{group}[{}]", self.layer),
        }
    }
}

/// The physical shape of one KV group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGeometry {
    /// Layers.
    pub num_layers: usize,
    /// Key/value heads.
    pub num_heads: usize,
    /// Columns of one head.
    pub head_dim: usize,
    /// KV positions in one block.
    pub block_len: usize,
    /// Blocks, the null block included.
    pub num_blocks: usize,
    /// Element type.
    pub dtype: DType,
    /// As [`PagedKv::window`]: a sequence may give back blocks that lie wholly before it.
    pub window: Option<usize>,
}

impl KvGeometry {
    /// The geometry of each of `groups` under `limits`.
    ///
    /// `kv_bytes` is shared: a sequence takes a block of every group for its next positions, so all
    /// groups have equally many.
    ///
    /// Errors if `kv_bytes` holds no block beside the null block, or more positions than kernels
    /// can number.
    pub fn plan(groups: &[PagedKv], limits: &Limits) -> Result<Vec<Self>> {
        let block_bytes = Self::bytes_of_block(groups, limits)?;
        let bad = |problem| Err(CoreError::BadLimits { field: "kv_bytes", problem });
        let (kv_bytes, block_len) = (limits.kv_bytes, limits.block_len);
        let Some(num_blocks) = kv_bytes.checked_div(block_bytes) else { return Ok(Vec::new()) };
        if num_blocks < 2 {
            return bad(format!(
                "is {kv_bytes}; one block of {block_len} positions takes {block_bytes} bytes and the smallest cache is two \
                 blocks: give at least {}",
                block_bytes.saturating_mul(2)
            ));
        }
        let most = MAX_EXTENT / block_len;
        if num_blocks > most {
            return bad(format!(
                "is {kv_bytes}; up to {MAX_EXTENT} positions are supported, which take {} bytes",
                most * block_bytes
            ));
        }
        let geometry = |kv: &PagedKv| Self {
            num_layers: kv.num_layers,
            num_heads: kv.num_heads,
            head_dim: kv.head_dim,
            block_len,
            num_blocks,
            dtype: limits.kv_dtype,
            window: kv.window,
        };
        Ok(groups.iter().map(geometry).collect())
    }

    /// Bytes of one block of each of `groups` over all their layers; 0 without groups. Errors if no
    /// memory has so many.
    pub fn bytes_of_block(groups: &[PagedKv], limits: &Limits) -> Result<usize> {
        let of_group = |kv: &PagedKv| {
            let factors = [2, kv.num_layers, kv.num_heads, kv.head_dim, limits.kv_dtype.size()];
            factors.into_iter().try_fold(limits.block_len, usize::checked_mul).filter(|&bytes| bytes > 0)
        };
        let bytes = groups.iter().try_fold(0_usize, |sum, kv| sum.checked_add(of_group(kv)?));
        // The smallest cache is two blocks, and its positions have to have numbers.
        let two = limits.block_len <= MAX_EXTENT / 2;
        bytes.filter(|&bytes| two && bytes <= MAX_BYTES / 2).ok_or_else(|| {
            let problem = format!(
                "is {}; no memory holds two blocks of so many positions: give less",
                limits.block_len
            );
            CoreError::BadLimits { field: "block_len", problem }
        })
    }

    /// Blocks at the front of a block table that no new token of a sequence reads, if the sequence
    /// has `kv_start` tokens in the cache: the token at KV index `q` sees `q - window < k <= q`.
    pub fn num_unseen(&self, kv_start: usize) -> usize {
        num_unseen_blocks(self.window, self.block_len, kv_start)
    }

    /// Elements of one block of one layer, keys and values.
    pub const fn layer_block_len(&self) -> usize {
        2 * self.num_heads * self.block_len * self.head_dim
    }

    /// Bytes of one block over all layers.
    pub const fn block_bytes(&self) -> usize {
        self.num_layers * self.layer_block_len() * self.dtype.size()
    }

    /// Bytes of all blocks.
    pub const fn bytes(&self) -> usize {
        self.num_blocks * self.block_bytes()
    }

    /// Bytes that one token takes over all layers.
    pub const fn token_bytes(&self) -> usize {
        self.block_bytes() / self.block_len
    }

    /// Shape in which blocks leave and enter: `[layers, 2 (k, v), heads, block_len, head_dim]`.
    pub fn block_shape(&self) -> Vec<usize> {
        vec![self.num_layers, 2, self.num_heads, self.block_len, self.head_dim]
    }
}

/// Blocks at the front of a block table that the token at KV index `index`, and those after it, do
/// not see: it sees `index - window < k <= index`.
pub fn num_unseen_blocks(window: Option<usize>, block_len: usize, index: usize) -> usize {
    let sees = window.unwrap_or(usize::MAX).max(1);
    index.saturating_add(1).saturating_sub(sees) / block_len
}

/// The physical side of a paged KV cache: what a swap space, a peer or a test sees of it.
pub trait KvCache {
    /// Physical shape of `group`.
    fn geometry(&self, group: usize) -> KvGeometry;
    /// Bytes held, all groups.
    fn bytes(&self) -> usize;
    /// Copies `block` of `group` to the host in [`KvGeometry::block_shape`].
    fn read_block(&self, group: usize, block: BlockId) -> Result<HostTensor>;
    /// Overwrites `block` of `group`; the tensor has [`KvGeometry::block_shape`] and the cache's
    /// dtype.
    fn write_block(&mut self, group: usize, block: BlockId, data: &HostTensor) -> Result<()>;
    /// Copies blocks within `group`, in order: `(from, to)`.
    fn copy_blocks(&mut self, group: usize, pairs: &[(BlockId, BlockId)]) -> Result<()>;
}
