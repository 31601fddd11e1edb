//! The physical KV cache: one allocation a layer, in the layout that attention reads.

use nvllm_core::{BlockId, HostTensor, KvCache, KvFormat, KvGeometry, KvLayer, Result};

use crate::zeroed::zeroed;
use crate::{KvLayout, PageElem};

pub(super) struct CpuKv {
    geometries: Vec<KvGeometry>,
    /// By group, then layer: `[block][k, v][head][offset][column]`.
    layers: Vec<Vec<Vec<u8>>>,
}

/// The kernels' view of a geometry.
fn layout(g: &KvGeometry) -> KvLayout {
    KvLayout {
        num_blocks: g.num_blocks,
        kv_heads: g.num_heads,
        block_len: g.block_len,
        head_dim: g.head_dim,
        elem: match g.format {
            KvFormat::F32 => PageElem::F32,
            KvFormat::Bf16 => PageElem::Bf16,
            KvFormat::Fp8 => PageElem::E4m3,
            KvFormat::Int8 => PageElem::I8,
        },
    }
}

impl CpuKv {
    /// Errors if the system has not the memory.
    pub(super) fn new(geometries: Vec<KvGeometry>) -> Result<Self> {
        let layer = |g: &KvGeometry| zeroed(layout(g).bytes(), "the KV cache");
        let group = |g: &KvGeometry| (0..g.num_layers).map(|_| layer(g)).collect::<Result<_>>();
        let layers = geometries.iter().map(group).collect::<Result<_>>()?;
        Ok(Self { geometries, layers })
    }

    pub(super) fn geometries(&self) -> &[KvGeometry] {
        &self.geometries
    }

    pub(super) fn pages(&self, kv: KvLayer) -> (&[u8], KvLayout) {
        (&self.layers[kv.group][kv.layer], layout(&self.geometries[kv.group]))
    }

    pub(super) fn pages_mut(&mut self, kv: KvLayer) -> (&mut [u8], KvLayout) {
        (&mut self.layers[kv.group][kv.layer], layout(&self.geometries[kv.group]))
    }

    fn block(&self, group: usize, block: BlockId) -> Result<std::ops::Range<usize>> {
        let g = &self.geometries[group];
        g.check_id(block)?;
        let len = layout(g).block_bytes();
        Ok(block.index() * len..(block.index() + 1) * len)
    }
}

impl KvCache for CpuKv {
    fn geometry(&self, group: usize) -> KvGeometry {
        self.geometries[group]
    }

    fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(Vec::len).sum()
    }

    fn read_block(&self, group: usize, block: BlockId) -> Result<HostTensor> {
        let (g, range) = (self.geometries[group], self.block(group, block)?);
        let bytes = self.layers[group].iter().flat_map(|layer| &layer[range.clone()]).copied().collect();
        Ok(HostTensor::from_bytes(g.block_shape(), g.block_dtype(), bytes))
    }

    fn write_block(&mut self, group: usize, block: BlockId, data: &HostTensor) -> Result<()> {
        let (g, range) = (self.geometries[group], self.block(group, block)?);
        g.check_block(data)?;
        for (layer, bytes) in self.layers[group].iter_mut().zip(data.bytes().chunks(range.len())) {
            layer[range.clone()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn copy_blocks(&mut self, group: usize, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        for &(from, to) in pairs {
            let (from, to) = (self.block(group, from)?, self.block(group, to)?);
            self.layers[group].iter_mut().for_each(|layer| layer.copy_within(from.clone(), to.start));
        }
        Ok(())
    }
}
