//! The physical KV cache: for each layer its keys and its values, each `[num_blocks, heads,
//! block_len, head_dim]`, and apart from them their scales where the format has any, each
//! `[num_blocks, heads, block_len]`.

use std::sync::Arc;

use nvllm_core::{BlockCopy, BlockId, HostTensor, KvCache, KvGeometry, KvLayer, Result as CoreResult};

use crate::device::Device;
use crate::error::Result;
use crate::memory::{Address, Buffer};

pub(crate) struct CudaKv {
    device: Arc<Device>,
    groups: Vec<Group>,
}

struct Group {
    geometry: KvGeometry,
    /// Elements, then scales: of the keys of layer 0, of its values, of the keys of layer 1, ..
    buffers: [Buffer; 2],
}

/// Bytes of elements and of scales of one block of one layer's keys, or of its values.
const fn parts(g: &KvGeometry) -> [usize; 2] {
    let rows = g.num_heads * g.block_len;
    [rows * g.head_dim * g.format.element_bytes(), rows * g.format.scale_bytes()]
}

/// Offset of a block in part `part` (twice the layer, plus 1 for values) of buffer `which`.
const fn offset(g: &KvGeometry, which: usize, part: usize, block: BlockId) -> usize {
    (part * g.num_blocks + block.index()) * parts(g)[which]
}

/// Where the bytes of a block lie, in the order in which it leaves and enters
/// ([`KvGeometry::block_shape`]): buffer, offset and length.
fn places(g: &KvGeometry, block: BlockId) -> impl Iterator<Item = (usize, usize, usize)> {
    let of_layer = move |layer| {
        [(0, 0), (0, 1), (1, 0), (1, 1)]
            .map(|(which, part)| (which, offset(g, which, 2 * layer + part, block), parts(g)[which]))
    };
    (0..g.num_layers).flat_map(of_layer).filter(|(.., len)| *len > 0)
}

impl Group {
    /// Copies a block, in stream order and without waiting for it.
    fn copy(&self, from: BlockId, to: BlockId) -> Result<()> {
        let mut pairs = places(&self.geometry, from).zip(places(&self.geometry, to));
        pairs.try_for_each(|((which, from, len), (_, to, _))| {
            self.buffers[which].copy(to, &self.buffers[which], from, len)
        })
    }
}

impl CudaKv {
    pub(crate) fn new(device: &Arc<Device>, geometries: &[KvGeometry]) -> Result<Self> {
        let group = |&geometry: &KvGeometry| {
            let of = |bytes| Buffer::zeroed(device, 2 * geometry.num_layers * geometry.num_blocks * bytes);
            let [elements, scales] = parts(&geometry).map(of);
            Ok(Group { geometry, buffers: [elements?, scales?] })
        };
        let groups = geometries.iter().map(group).collect::<Result<_>>()?;
        Ok(Self { device: Arc::clone(device), groups })
    }

    pub(crate) fn geometry_of(&self, layer: KvLayer) -> KvGeometry {
        self.groups[layer.group].geometry
    }

    /// Keys and values of a layer.
    pub(crate) fn layer(&self, layer: KvLayer) -> [Address; 2] {
        self.addresses(0, layer)
    }

    /// Their scales; 0 where the format has none.
    pub(crate) fn scales(&self, layer: KvLayer) -> [Address; 2] {
        let has_some = self.geometry_of(layer).format.scale_bytes() > 0;
        if has_some { self.addresses(1, layer) } else { [0; 2] }
    }

    fn addresses(&self, which: usize, layer: KvLayer) -> [Address; 2] {
        let group = &self.groups[layer.group];
        [0, 1].map(|part| {
            group.buffers[which].at(offset(&group.geometry, which, 2 * layer.layer + part, BlockId::NULL))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.iter().flat_map(|group| &group.buffers).map(Buffer::len).sum()
    }

    /// Starts the copies of a step, which have been checked.
    pub(crate) fn start_copies(&self, copies: &[BlockCopy]) -> Result<()> {
        copies.iter().try_for_each(|copy| self.groups[copy.group].copy(copy.from, copy.to))
    }

    fn check(&self, group: usize, block: BlockId) -> CoreResult<&Group> {
        let found = &self.groups[group];
        found.geometry.check_id(block)?;
        Ok(found)
    }
}

impl KvCache for CudaKv {
    fn geometry(&self, group: usize) -> KvGeometry {
        self.groups[group].geometry
    }

    fn bytes(&self) -> usize {
        self.len()
    }

    fn read_block(&self, group: usize, block: BlockId) -> CoreResult<HostTensor> {
        let group = self.check(group, block)?;
        let mut bytes = vec![0; group.geometry.block_bytes()];
        let (mut rest, mut parts) = (&mut bytes[..], [const { Vec::new() }; 2]);
        for (which, at, len) in places(&group.geometry, block) {
            let (part, others) = rest.split_at_mut(len);
            parts[which].push((at, part));
            rest = others;
        }
        for (buffer, parts) in group.buffers.iter().zip(parts) {
            buffer.read_all(&self.device.stream, parts)?;
        }
        Ok(HostTensor::from_bytes(group.geometry.block_shape(), group.geometry.block_dtype(), bytes))
    }

    fn write_block(&mut self, group: usize, block: BlockId, data: &HostTensor) -> CoreResult<()> {
        let group = self.check(group, block)?;
        group.geometry.check_block(data)?;
        let (mut rest, mut parts) = (data.bytes(), [const { Vec::new() }; 2]);
        for (which, at, len) in places(&group.geometry, block) {
            let (part, others) = rest.split_at(len);
            parts[which].push((at, part));
            rest = others;
        }
        for (buffer, parts) in group.buffers.iter().zip(parts) {
            buffer.write_all(parts)?;
        }
        Ok(())
    }

    fn copy_blocks(&mut self, group: usize, pairs: &[(BlockId, BlockId)]) -> CoreResult<()> {
        for &(from, to) in pairs {
            self.check(group, from)?;
            let group = self.check(group, to)?;
            if from != to {
                group.copy(from, to)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nvllm_core::KvFormat;

    use super::*;

    #[test]
    fn blocks_lie_apart_and_fill_both_buffers() {
        for format in KvFormat::ALL {
            let (num_layers, num_heads, head_dim, block_len, num_blocks) = (2, 3, 5, 4, 7);
            let g =
                KvGeometry { num_layers, num_heads, head_dim, block_len, num_blocks, format, window: None };
            let block = |block| {
                let places: Vec<_> = places(&g, BlockId(block)).collect();
                assert_eq!(places.iter().map(|(.., len)| len).sum::<usize>(), g.block_bytes(), "{format}");
                places
            };
            let mut all: Vec<_> = (0..7).flat_map(block).collect();
            all.sort_unstable();
            let mut ends = [0; 2];
            for (which, at, len) in all {
                assert_eq!(at, ends[which], "{format}");
                ends[which] += len;
            }
            assert_eq!(ends.iter().sum::<usize>(), g.bytes(), "{format}");
        }
    }
}
