//! State that outlives a step: the paged KV cache.

use std::ops::Range;

use crate::limits::{MAX_BYTES, MAX_EXTENT};
use crate::{BlockId, CoreError, DType, HostTensor, KvFormat, Limits, Result, Tensor};

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
    /// How keys and values are stored.
    pub format: KvFormat,
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
            format: limits.kv_format,
            window: kv.window,
        };
        Ok(groups.iter().map(geometry).collect())
    }

    /// Bytes of one block of each of `groups` over all their layers; 0 without groups. Errors if no
    /// memory has so many.
    pub fn bytes_of_block(groups: &[PagedKv], limits: &Limits) -> Result<usize> {
        let of_group = |kv: &PagedKv| {
            let format = limits.kv_format;
            let elements = kv.head_dim.checked_mul(format.element_bytes())?;
            let row = elements.checked_add(format.scale_bytes()).filter(|_| elements > 0)?;
            let factors = [2, kv.num_layers, kv.num_heads, row];
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

    /// Rows of one block of one layer: the key and the value of each head at each offset.
    const fn layer_block_rows(&self) -> usize {
        2 * self.num_heads * self.block_len
    }

    /// Bytes of one block of one layer: all elements, then all scales.
    pub const fn layer_block_bytes(&self) -> usize {
        self.layer_block_rows() * self.format.row_bytes(self.head_dim)
    }

    /// Where the elements of row `row` of one block of one layer lie, in bytes. Rows are numbered
    /// `[k|v, head, offset]`.
    pub const fn row_elements(&self, row: usize) -> Range<usize> {
        let bytes = self.head_dim * self.format.element_bytes();
        row * bytes..(row + 1) * bytes
    }

    /// Where the scale of row `row` of one block of one layer lies, in bytes; empty if rows have
    /// none.
    pub const fn row_scale(&self, row: usize) -> Range<usize> {
        let bytes = self.format.scale_bytes();
        let scales = self.row_elements(self.layer_block_rows()).start;
        scales + row * bytes..scales + (row + 1) * bytes
    }

    /// Bytes of one block over all layers.
    pub const fn block_bytes(&self) -> usize {
        self.num_layers * self.layer_block_bytes()
    }

    /// Bytes of all blocks.
    pub const fn bytes(&self) -> usize {
        self.num_blocks * self.block_bytes()
    }

    /// Bytes that one token takes over all layers.
    pub const fn token_bytes(&self) -> usize {
        self.block_bytes() / self.block_len
    }

    /// Shape in which blocks leave and enter: `[layers, 2 (k, v), heads, block_len, head_dim]`, and
    /// of codes the bytes themselves, `[layers, bytes]`, as [`kv_format`](mod@crate::kv_format)
    /// says.
    pub fn block_shape(&self) -> Vec<usize> {
        match self.format.plain() {
            Some(_) => vec![self.num_layers, 2, self.num_heads, self.block_len, self.head_dim],
            None => vec![self.num_layers, self.layer_block_bytes()],
        }
    }

    /// Dtype in which blocks leave and enter: that of the elements, and for codes bytes.
    pub fn block_dtype(&self) -> DType {
        self.format.plain().unwrap_or(DType::U8)
    }

    /// Errors if there is no such block.
    pub fn check_id(&self, block: BlockId) -> Result<()> {
        if block.index() < self.num_blocks {
            return Ok(());
        }
        let problem = format!("block {block} of {} does not exist", self.num_blocks);
        Err(CoreError::BadLimits { field: "kv_bytes", problem })
    }

    /// Errors if `data` is no block in this shape and dtype.
    pub fn check_block(&self, data: &HostTensor) -> Result<()> {
        let (shape, dtype) = (self.block_shape(), self.block_dtype());
        if data.shape() == shape && data.dtype() == dtype {
            return Ok(());
        }
        let problem = format!("is {:?} {}; {shape:?} {dtype} is needed", data.shape(), data.dtype());
        Err(CoreError::BadTensor { name: "KV block".into(), problem })
    }

    /// A block that holds `values`, `[layers, 2 (k, v), heads, block_len, head_dim]`, as they are
    /// stored.
    ///
    /// # Panics
    /// If there are not so many values: a fault in the caller.
    pub fn encode_block(&self, values: &[f32]) -> HostTensor {
        assert_eq!(values.len(), self.num_layers * self.layer_block_len(), "values of a block");
        let mut bytes = Vec::with_capacity(self.block_bytes());
        for layer in values.chunks(self.layer_block_len()) {
            let scales: Vec<_> = layer.chunks(self.head_dim).map(|row| self.format.scale(row)).collect();
            for (row, &scale) in layer.chunks(self.head_dim).zip(&scales) {
                self.format.encode(row, scale, &mut bytes);
            }
            if self.format.scale_bytes() > 0 {
                bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
            }
        }
        HostTensor::from_bytes(self.block_shape(), self.block_dtype(), bytes)
    }

    /// The values of a block, `[layers, 2 (k, v), heads, block_len, head_dim]`.
    ///
    /// Errors as [`check_block`](Self::check_block).
    pub fn decode_block(&self, data: &HostTensor) -> Result<Vec<f32>> {
        self.check_block(data)?;
        let mut values = Vec::with_capacity(self.num_layers * self.layer_block_len());
        for layer in data.bytes().chunks(self.layer_block_bytes()) {
            for row in 0..self.layer_block_rows() {
                values.extend(self.decode_row(layer, row));
            }
        }
        Ok(values)
    }

    /// The values of row `row` of one block of one layer, whose bytes are `layer`.
    pub(crate) fn decode_row<'a>(&self, layer: &'a [u8], row: usize) -> impl Iterator<Item = f32> + use<'a> {
        let (format, elements) = (self.format, &layer[self.row_elements(row)]);
        let scale = match &layer[self.row_scale(row)] {
            [] => 1.0,
            bytes => DType::F32.read(bytes, 0),
        };
        (0..self.head_dim).map(move |i| format.decode(elements, i, scale))
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
    /// Copies `block` of `group` to the host, in [`KvGeometry::block_shape`] and
    /// [`KvGeometry::block_dtype`].
    fn read_block(&self, group: usize, block: BlockId) -> Result<HostTensor>;
    /// Overwrites `block` of `group`. Errors as [`KvGeometry::check_block`].
    fn write_block(&mut self, group: usize, block: BlockId, data: &HostTensor) -> Result<()>;
    /// Copies blocks within `group`, in order: `(from, to)`.
    fn copy_blocks(&mut self, group: usize, pairs: &[(BlockId, BlockId)]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(format: KvFormat) -> KvGeometry {
        KvGeometry {
            num_layers: 2,
            num_heads: 3,
            head_dim: 8,
            block_len: 5,
            num_blocks: 4,
            format,
            window: None,
        }
    }

    #[test]
    fn bytes_are_those_of_all_rows_with_their_scales() {
        for (format, row) in
            [(KvFormat::F32, 32), (KvFormat::Bf16, 16), (KvFormat::Fp8, 8), (KvFormat::Int8, 12)]
        {
            let g = geometry(format);
            let token = 2 * 2 * 3 * row;
            assert_eq!((g.token_bytes(), g.block_bytes(), g.bytes()), (token, 5 * token, 20 * token));
            let size = g.block_shape().iter().product::<usize>() * g.block_dtype().size();
            assert_eq!(size, g.block_bytes(), "{format}");
        }
    }

    /// Rows of a layer lie apart, elements before scales, and fill its bytes.
    #[test]
    fn rows_and_their_scales_have_places_of_their_own() {
        for format in KvFormat::ALL {
            let g = geometry(format);
            let rows = 0..g.layer_block_rows();
            let elements = rows.clone().flat_map(|row| g.row_elements(row));
            let places: Vec<_> = elements.chain(rows.flat_map(|row| g.row_scale(row))).collect();
            assert!(places.into_iter().eq(0..g.layer_block_bytes()), "{format}");
        }
    }

    #[test]
    fn a_block_holds_the_rounded_values_of_its_rows() {
        for format in KvFormat::ALL {
            let g = geometry(format);
            let mut values: Vec<_> =
                (0..g.num_layers * g.layer_block_len()).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
            let block = g.encode_block(&values);
            values.chunks_mut(g.head_dim).for_each(|row| format.round(row));
            assert_eq!(g.decode_block(&block).unwrap(), values, "{format}");
            let flat = HostTensor::from_bytes([g.block_bytes()], DType::U8, vec![0; g.block_bytes()]);
            assert!(g.decode_block(&flat).is_err());
        }
    }
}
